"""ONNX, checked in ONNX Runtime."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import ExportError
from dynaconv.export._dcd_form import in_runtime_form
from dynaconv.export._native_form import (
    checked_extension,
    in_native_form,
    native_notes,
    settle_programs,
    translation,
)
from dynaconv.export._onnx_rules import for_onnxruntime
from dynaconv.export.capture import Capture, FreeSize
from dynaconv.export.packages import require, versioned
from dynaconv.export.pipeline import Format, export_as, no_notes
from dynaconv.export.report import ExportReport
from dynaconv.export.verify import Run

MIN_OPSET = 18
# One file of ONNX's serialisation holds 2 GiB; the graph takes some of it.
_ONE_FILE_BYTES = 1_900_000_000
_REGISTERED_BY = "SessionOptions.register_custom_ops_library"


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    free_batch: bool = True,
    free_size: FreeSize = "auto",
    opset: int = MIN_OPSET,
    rewrite: bool = True,
    native: bool = False,
    overwrite: bool = False,
) -> ExportReport:
    """Write a network as one ONNX file, and keep it only when ONNX Runtime computes what the network does.

    The model itself stays as it is: a copy in eval mode is exported. The input is called ``images``, several are called
    as in ``forward``; an output is called ``output``, several by their key or position. A network of more than 1.9 GB
    gets a second file, ``<path>.data``, for its weights.

    Args:
        model: Any network of images; `deploy` it first for a smaller graph.
        path: The file to write, ``*.onnx``.
        example: Input ``(B, C, H, W)``, or a tuple of the positional inputs; a batch of one will do. It gives the
            image size, the types and the range of the random inputs for the checks.
        free_batch: Let the batch size be chosen at every run.
        free_size: Let the image size be, too: True or False, or ``"auto"`` for where the network allows it.
        opset: Version of the operator set, 18 or newer.
        rewrite: Write 1x1 DCD layers as ONNX Runtime computes them fastest. False writes them as they stand, with W0 as
            a convolution of its own, which a file to be quantised needs.
        native: Write what the native kernels can run as operators of their own, which take a fraction of the time. Who
            opens the file has to give ONNX Runtime the library ``dynaconv.native.extension("onnxruntime")``, see
            docs/native.md.
        overwrite: Replace a file that is there.

    Returns:
        What was written, what is free, and the difference in each check: at batch sizes 1 and 3, and at another image
        size where that is free.

    Raises:
        ExportError: A package is missing, the path cannot be used, the network cannot be exported, or the file computes
            something else: ``max|a - b| / max|b|`` over 1e-4 for an output. No file is left, one that was there stays.
    """
    if not isinstance(opset, int) or opset < MIN_OPSET:
        raise ExportError(f"`opset` is an int from {MIN_OPSET} up; got {opset!r}.")
    require("onnx", "onnxscript", "onnxruntime", what="export_onnx")
    library = checked_extension("onnxruntime") if native else None

    def write(recorded: Capture, file: Path) -> None:
        write_onnx(recorded, file, opset=opset, rewrite=rewrite, native=native)

    def prepare(network: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
        network = in_native_form(network, inputs) if native else network
        return in_runtime_form(network, channels_last=False) if rewrite else network

    form = Format(
        name=f"ONNX (opset {opset}{', native kernels' if native else ''})",
        runtime=versioned("onnxruntime", "ONNX Runtime"),
        suffixes=(".onnx",),
        write=write,
        load=partial(load_onnx, library=library),
        prepare=prepare,
        notes=partial(native_notes, _REGISTERED_BY, "onnxruntime") if native else no_notes,
    )
    return export_as(form, model, path, example, free_batch=free_batch, free_size=free_size, overwrite=overwrite)


def write_onnx(
    recorded: Capture, file: Path, *, opset: int = MIN_OPSET, rewrite: bool = False, native: bool = False
) -> None:
    """Write a recorded network as ONNX and let ONNX's own checker read it.

    Args:
        recorded, file: What to write, and where.
        opset: Version of the operator set.
        rewrite: `for_onnxruntime`.
        native: The network has native programs.
    """
    (onnx,) = require("onnx", what="ONNX")
    program = torch.onnx.export(
        recorded.program,
        (),
        dynamo=True,
        opset_version=opset,
        input_names=list(recorded.inputs),
        output_names=list(recorded.outputs),
        optimize=False,
        verbose=False,
        custom_translation_table=translation() if native else None,
    )
    assert program is not None
    _simplify(program)
    if native:
        settle_programs(program.model, opset)
    if rewrite:
        for_onnxruntime(program.model)
    _name_axes(program.model, recorded.symbols)
    held = [*recorded.program.state_dict.values(), *recorded.program.constants.values()]
    weights = sum(tensor.nbytes for tensor in held if isinstance(tensor, Tensor))
    program.save(file, external_data=weights > _ONE_FILE_BYTES)
    onnx.checker.check_model(str(file), full_check=True)


def load_onnx(file: Path, *, library: Path | None = None) -> Run:
    """Open an ONNX file in ONNX Runtime on the CPU, with a library of operators where it needs one."""
    (onnxruntime,) = require("onnxruntime", what="running ONNX")
    options = onnxruntime.SessionOptions()
    # Errors only: what it warns of is how it placed operators.
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> Any:
        return session.run(None, {name: each.numpy() for name, each in zip(names, inputs, strict=True)})

    return run


def _simplify(program: torch.onnx.ONNXProgram) -> None:
    """What the exporter's own ``optimize`` leads to, in a tenth of the time for a deep network.

    Its rules are matched against the whole graph for every operator; two thirds of those go when constants are folded.
    """
    optimizer, passes = require("onnxscript.optimizer", "onnx_ir.passes.common", what="ONNX")
    optimizer.inline(program.model)
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    passes.CommonSubexpressionEliminationPass()(program.model)
    program.optimize()


def _name_axes(model: Any, symbols: dict[str, str]) -> None:
    """Call the free axes batch, height and width wherever a shape speaks of them."""
    if not symbols:
        return
    (ir,) = require("onnx_ir", what="ONNX")
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, symbols))})\b")
    graph = model.graph
    values = [*graph.inputs, *graph.outputs, *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in {id(each): each for each in values}.values():
        if value.shape is not None:
            value.shape = ir.Shape(
                [
                    dim
                    if isinstance(dim, int)
                    else pattern.sub(lambda found: symbols[found[0]], str(dim.value or "")) or None
                    for dim in value.shape
                ]
            )
