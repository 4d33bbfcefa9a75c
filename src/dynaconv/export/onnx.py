"""Exports networks as ONNX files and verifies the files in ONNX Runtime."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynaconv.deployment.backends import Precision
from dynaconv.errors import ExportError
from dynaconv.export._activations import clip_once, clip_translation_table
from dynaconv.export._dcd_form import in_runtime_form
from dynaconv.export._half_form import in_half_form, store_in_half
from dynaconv.export._int8_form import in_int8_form
from dynaconv.export._native_form import (
    checked_extension,
    in_native_form,
    native_notes,
    native_translation_table,
    set_program_attributes,
)
from dynaconv.export._onnx_rules import for_graph_runtimes
from dynaconv.export._pixels import ImageForm, channels_last
from dynaconv.export._recorded import record_layers
from dynaconv.export._sample_loop import loop_over_samples
from dynaconv.export.capture import Capture, FreeSize
from dynaconv.export.image_info import PREFIX, ImageInfo
from dynaconv.export.packages import require, versioned
from dynaconv.export.pipeline import Format, no_notes
from dynaconv.export.report import ExportReport
from dynaconv.export.verify import Run
from dynaconv.families.contract.checks import check_choice, check_integer

Rewrite = bool | Literal["int8"]
MIN_OPSET = 18
# Largest size of the weights in a single file: ONNX's serialisation allows 2 GiB, and the graph needs a part of it.
_MAX_SINGLE_FILE_BYTES = 1_900_000_000
# Key of the exporter's note on a node that names its layer.
_SCOPES = "pkg.torch.onnx.name_scopes"
NO_IMAGES = ImageForm()
_REGISTER_METHOD = "SessionOptions.register_custom_ops_library"
FILE_PRECISIONS: tuple[Precision, ...] = ("float32", "bf16", "int8")
"""Precisions of the operators of the native kernels in files."""


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    batch: int | None = None,
    free_size: FreeSize = "auto",
    opset: int = MIN_OPSET,
    rewrite: Rewrite = True,
    native: bool = False,
    coefficients: bool = False,
    kernels: bool = False,
    half: bool = False,
    precision: Precision = "float32",
    info: ImageInfo | None = None,
    preprocessing: bool = False,
    overwrite: bool = False,
) -> ExportReport:
    """Write a network as one ONNX file, and keep it only if its outputs in ONNX Runtime match the network's.

    A copy of the model in eval mode is exported; the model itself does not change. A single input is named ``images``;
    several inputs are named as in ``forward``. A single output is named ``output``; several outputs are named by their
    key or position. If the weights exceed 1.9 GB, they are written to a second file, ``<path>.data``.

    Args:
        model: Any image network; call `deploy` first for a smaller graph.
        path: The file to write, ``*.onnx``.
        example: Input ``(B, C, H, W)``, or a tuple of the positional inputs; a batch size of 1 is enough. It determines
            the image size, and the dtypes and value range of the random inputs for the checks.
        batch: The batch size of the file; None leaves it free, so that it may differ between runs.
        free_size: Leave height and width free: True, False, or ``"auto"`` to do so if the network allows it.
        opset: Version of the ONNX operator set, 18 or newer.
        rewrite: Write a dynamic network in the form that ONNX Runtime computes fastest: the network of one sample,
            whose dynamic layers are convolutions with computed kernels, in a loop over the batch. False writes
            operators on the whole batch. ``"int8"`` writes the form that `quantize_onnx` and `quantize_openvino`
            quantise: without a loop, if no layer needs a convolution with one kernel per sample.
        native: Write the parts that the native kernels support as operators of their own, which take a fraction of the
            time. To load the file, register the library ``dynaconv.native.extension("onnxruntime")`` in ONNX Runtime,
            see docs/native.md.
        coefficients: Also write the coefficients of each dynamic layer, as outputs named ``<layer>.<coefficient>``
            after the fields of ``layer.coefficients(x)``, such as ``layer1.0.conv1.scale``. Of further calls of the
            same layer they end in ``.2``, ``.3`` and so on.
        kernels: Also write the kernel W(x) of each dynamic layer, ``(B, *weight.shape)``, as ``<layer>.weight``.
        half: Store in float16 and compute in it. The branches of dynamic layers compute in float32, and inputs and
            outputs stay float32. The model may be in any floating-point dtype. The accepted difference is 1e-2. The
            kernels of a GPU use float16; ONNX Runtime on an x86 processor converts to float32 and back, see
            docs/export.md.
        precision: Precision of the operators of ``native``, see `dynaconv.deploy`. For ``bf16`` the accepted difference
            is 5e-2. A file in ``int8`` is compared with the network deployed in int8, with a limit of 1e-2, and the
            report has the difference to the given one.
        info: Class names and normalisation to write into the file's metadata, such as ``ImageInfo.of(metadata)``.
        preprocessing: Put the normalisation of ``info`` into the file. The file then takes the pixels of an image
            decoder, ``uint8`` ``(B, H, W, C)`` with red, green, blue; ``example`` stays a normalised image.
        overwrite: Replace an existing file.

    Returns:
        A report on the file, its free axes, and the difference in each check: at batch sizes 1 and 3, and at another
        image size if the size is free.

    Raises:
        ExportError: A package is missing, the path cannot be used, the network cannot be exported or has no dynamic
            layer to record, ``coefficients`` or ``kernels`` is combined with ``native``, or ``max|a - b| / max|b|``
            exceeds 1e-4 for an output (1e-2 with ``half`` or ``int8``, 5e-2 with ``bf16``). No new file is left; an
            existing file does not change.
    """
    check_integer("`opset`", opset, least=MIN_OPSET, error=ExportError)
    recorded = coefficients or kernels
    if native and recorded:
        raise ExportError(
            "an operator of the native kernels holds several layers and gives only the last one's output; leave out "
            "`native`, or `coefficients` and `kernels`."
        )
    require("onnx", "onnxscript", "onnxruntime", needed_by="export_onnx")
    check_form(rewrite, native=native, half=half, precision=precision)
    images = ImageForm.of(example, info, preprocessing=preprocessing)
    library = checked_extension("onnxruntime") if native else None

    def write(captured: Capture, file: Path) -> None:
        write_onnx(captured, file, opset=opset, rewrite=bool(rewrite), native=native, half=half, images=images)

    details = [f"opset {opset}", *([native_label(precision)] if native else []), *(["float16"] if half else [])]
    file_format = Format(
        name=f"ONNX ({', '.join(details)})",
        runtime=versioned("onnxruntime", "ONNX Runtime"),
        suffixes=(".onnx",),
        write=write,
        load=partial(load_onnx, library=library),
        notes=partial(native_notes, _REGISTER_METHOD, "onnxruntime") if native else no_notes,
        record=partial(record_layers, coefficients=coefficients, kernels=kernels) if recorded else None,
        **written_form(rewrite=rewrite, native=native, half=half, weights=precision),
    )
    return images.export(file_format, model, path, example, batch=batch, free_size=free_size, overwrite=overwrite)


def native_label(precision: Precision) -> str:
    """Return the part of a format's name that says that it has native operators, and of which precision."""
    return "native kernels" if precision == "float32" else f"native kernels in {precision}"


def check_form(rewrite: Rewrite, *, native: bool, half: bool, precision: Precision = "float32") -> None:
    """Raise ExportError if an option is unknown or options exclude each other."""
    check_choice("`rewrite`", rewrite, (True, False, "int8"), error=ExportError)
    if half and native:
        raise ExportError("`half` and `native` exclude each other, as native kernels compute in float32; pass one.")
    check_choice("`precision`", precision, FILE_PRECISIONS, error=ExportError)
    if precision != "float32" and not native:
        raise ExportError(f"`precision` is that of native operators; with {precision!r}, pass native=True.")
    if rewrite == "int8" and (half or native):
        raise ExportError("rewrite='int8' is for a float32 file without native kernels; pass it alone.")


def written_form(
    *, rewrite: Rewrite, native: bool, half: bool = False, weights: Precision = "float32"
) -> dict[str, Any]:
    """Return the fields of `Format` for the form in which a graph runtime gets a network."""
    if native:
        form = {"prepare": partial(in_native_form, precision=weights), "coarse": weights == "int8"}
        return {**form, "precision": {"float32": "float32", "bf16": "bfloat16", "int8": "float16"}[weights]}
    if rewrite == "int8":
        return {
            "prepare": lambda network, inputs: in_int8_form(network) or network,
            "for_one_sample": lambda network: None if in_int8_form(network) else in_runtime_form(network, int8=True),
        }
    one_sample = in_runtime_form if rewrite else None
    if not half:
        return {"for_one_sample": one_sample}
    return {
        "precision": "float16",
        "prepare": lambda network, inputs: in_half_form(network),
        "for_one_sample": None if one_sample is None else lambda network: in_half_form(one_sample(network)),
    }


def write_onnx(
    captured: Capture,
    file: Path,
    *,
    opset: int = MIN_OPSET,
    rewrite: bool = False,
    native: bool = False,
    half: bool = False,
    images: ImageForm = NO_IMAGES,
) -> None:
    """Write a traced network as an ONNX file and run ONNX's checker on the file.

    Args:
        captured: The traced network.
        file: The file to write.
        opset: Version of the ONNX operator set.
        rewrite: Whether to apply `for_graph_runtimes`.
        native: Whether the network contains native programs.
        half: Whether to store what is computed in float32 in float16.
        images: Whether the file takes pixels, and what it says of them.
    """
    (onnx,) = require("onnx", needed_by="ONNX export")
    clip_once(captured.program)
    program = torch.onnx.export(
        captured.program,
        (),
        dynamo=True,
        opset_version=opset,
        input_names=list(captured.inputs),
        output_names=list(captured.outputs),
        optimize=False,
        verbose=False,
        custom_translation_table=clip_translation_table() | (native_translation_table() if native else {}),
    )
    assert program is not None
    _simplify(program)
    if native:
        set_program_attributes(program.model, opset)
    if rewrite:
        for_graph_runtimes(program.model)
    if half:
        store_in_half(program.model)
    if captured.samples is not None:
        loop_over_samples(program.model, captured.samples)
    _name_axes(program.model, captured.symbols)
    if images.preprocessing:
        channels_last(program.model)
    _drop_traces(program.model)
    program.model.metadata_props.update({f"{PREFIX}.{key}": value for key, value in images.entries.items()})
    tensors = [*captured.program.state_dict.values(), *captured.program.constants.values()]
    num_bytes = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
    program.save(file, external_data=num_bytes > _MAX_SINGLE_FILE_BYTES)
    onnx.checker.check_model(str(file), full_check=True)


def load_onnx(file: Path, *, library: Path | None = None) -> Run:
    """Load an ONNX file into ONNX Runtime on the CPU, with a library of custom operators if it needs one."""
    (onnxruntime,) = require("onnxruntime", needed_by="running an ONNX file")
    options = onnxruntime.SessionOptions()
    # Log only errors; the warnings are about the placement of operators.
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> Any:
        return session.run(None, {name: each.numpy() for name, each in zip(names, inputs, strict=True)})

    return run


def _simplify(program: torch.onnx.ONNXProgram) -> None:
    """Simplify the graph as the exporter's ``optimize`` does, in a tenth of the time for a deep network.

    ``optimize`` matches its rules against the whole graph for every operator. So constants are folded first, which
    removes two thirds of the operators.
    """
    optimizer, passes = require("onnxscript.optimizer", "onnx_ir.passes.common", needed_by="ONNX export")
    optimizer.inline(program.model)
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    passes.CommonSubexpressionEliminationPass()(program.model)
    program.optimize()


def _drop_traces(model: Any) -> None:
    """Keep, of the exporter's notes on each node, its layer; stack traces hold paths of this machine."""
    for node in model.graph.all_nodes():
        scopes = node.metadata_props.get(_SCOPES)
        node.metadata_props.clear()
        if scopes is not None:
            node.metadata_props[_SCOPES] = scopes
        for value in node.outputs:
            value.metadata_props.clear()


def _name_axes(model: Any, symbols: dict[str, str]) -> None:
    """Replace the program's symbols by ``batch``, ``height`` and ``width`` in the shapes of all values."""
    if not symbols:
        return
    (ir,) = require("onnx_ir", needed_by="ONNX export")
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, symbols))})\b")
    graph = model.graph
    values = [*graph.inputs, *graph.outputs, *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in {id(each): each for each in values}.values():
        if value.shape is not None:
            value.shape = ir.Shape(
                [
                    dim
                    if isinstance(dim, int)
                    else pattern.sub(lambda match: symbols[match[0]], str(dim.value or "")) or None
                    for dim in value.shape
                ]
            )
