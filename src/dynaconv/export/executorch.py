"""Exports networks as ExecuTorch programs (``.pte``) for phones, which run in XNNPACK's kernels."""

from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dynaconv.errors import ExportError
from dynaconv.export._traced import external_tool, trace
from dynaconv.export.capture import frozen_copy
from dynaconv.export.packages import require, versioned
from dynaconv.export.report import ExportReport
from dynaconv.export.target import verified_target
from dynaconv.export.verify import LIMIT, as_inputs, named_outputs, random_inputs, verify
from dynaconv.families.contract.checks import check_integer

# Batch size at which torch's CPU convolution takes another code path; torch.export records a guard on it.
_CONVOLUTION_PATH_BATCH = 16
# Graph operations that run in no portable kernel.
_NO_KERNEL = ("executorch_call_delegate", "getitem", "sym_size", "alloc")


def export_executorch(
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    max_batch: int = 8,
    overwrite: bool = False,
) -> ExportReport:
    """Write an ExecuTorch program that runs in XNNPACK's kernels; keep it only if its outputs match the network's.

    The batch size is free from 1 to ``max_batch``, and ExecuTorch plans memory for ``max_batch``. Height and width are
    those of ``example``.

    Args:
        model: Any network; it is not changed.
        path: The ``.pte`` file to write.
        example: Input of the network, ``(B, C, H, W)`` with any batch size, or a tuple of inputs.
        max_batch: Largest batch size that the program accepts; 1 fixes the batch size to 1.
        overwrite: Whether an existing file may be replaced.

    Returns:
        A report on the file; its notes list the operations that run outside XNNPACK.

    Raises:
        ExportError: executorch is not installed or does not support the network, the file cannot be written, or its
            outputs differ from the network's. No file is left.
    """
    check_integer("`max_batch`", max_batch, error=ExportError)
    require("executorch", extra="executorch", needed_by="export_executorch")
    inputs = as_inputs(example)
    with verified_target(path, suffixes=(".pte",), overwrite=overwrite) as file:
        frozen = frozen_copy(model)
        with external_tool("ExecuTorch"):
            traced = _traced(frozen, inputs, max_batch)
            buffer, portable = _lower(traced)
            run = _runner(buffer)
        file.write_bytes(buffer)
        runtime = f"{versioned('executorch', 'ExecuTorch')} with XNNPACK"
        checks = verify(run, frozen, inputs, runtime=runtime, batches=_batches(max_batch))
        outputs = tuple(named_outputs(frozen(*inputs)))
    target = Path(path).expanduser()
    batch_axis = "batch" if max_batch > 1 else 1
    names = [spec for spec in traced.graph_signature.user_inputs if isinstance(spec, str)]
    return ExportReport(
        format="ExecuTorch",
        runtime=runtime,
        path=target,
        files=(target,),
        inputs={name: (batch_axis, *each.shape[1:]) for name, each in zip(names, inputs, strict=True)},
        outputs=outputs,
        free_axes=("batch",) if max_batch > 1 else (),
        checks=checks,
        limit=LIMIT,
        notes=_notes(max_batch, portable),
    )


def _traced(frozen: nn.Module, inputs: tuple[Tensor, ...], max_batch: int) -> ExportedProgram:
    """Trace with a free batch size, from 1 to a bound of at least ``max_batch``.

    The bound differs from ``max_batch`` if torch would otherwise fix the batch size: at 2, because torch treats 0 and 1
    as special cases, and at the batch size where the code path of a convolution changes.
    """
    if max_batch == 1:
        return trace(frozen, random_inputs(inputs, 1))
    bound = max_batch + (max_batch in (2, _CONVOLUTION_PATH_BATCH))
    # Trace on the bound's side of the path change: from the lower side, torch would limit the batch to that side.
    batch = 2 if bound < _CONVOLUTION_PATH_BATCH else bound
    axis = Dim("batch", min=1, max=bound)
    return trace(frozen, random_inputs(inputs, batch), dynamic_shapes=_first_axes(inputs, axis))


def _first_axes(inputs: Sequence[Tensor], axis: Any) -> Any:
    return tuple({0: axis} for _ in inputs)


def _lower(program: ExportedProgram) -> tuple[bytes, Counter[str]]:
    """Return the content of the file, and the number of operations of each kind in ExecuTorch's portable kernels."""
    xnnpack = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner
    fold = import_module("executorch.exir.passes.constant_prop_pass").constant_prop_pass
    lower = import_module("executorch.exir").to_edge_transform_and_lower
    with torch.no_grad():
        # XNNPACK supports only constant kernels. Folding makes the factors P and Q constants, not views of parameters.
        lowered = lower(fold(program), partitioner=[xnnpack()])
        operations = [
            str(getattr(node.target, "__name__", node.target)).removeprefix("aten.").partition(".")[0]
            for node in lowered.exported_program().graph.nodes
            if node.op == "call_function"
        ]
        portable = Counter(name for name in operations if not name.startswith(_NO_KERNEL))
        return bytes(lowered.to_executorch().buffer), portable


def _runner(buffer: bytes) -> Callable[..., list[Tensor]]:
    method = import_module("executorch.runtime").Runtime.get().load_program(buffer).load_method("forward")

    def run(*inputs: Tensor) -> list[Tensor]:
        return list(method.execute([each.contiguous() for each in inputs]))

    return run


def _batches(max_batch: int) -> tuple[int, ...]:
    return tuple(sorted({1, min(3, max_batch), max_batch}))


def _notes(max_batch: int, portable: Counter[str]) -> tuple[str, ...]:
    batch = (
        f"the batch size may be 1 to {max_batch}; pass max_batch for another bound."
        if max_batch > 1
        else "the batch size is fixed to 1; pass max_batch for larger batches."
    )
    if not portable:
        return (batch, "all operations run in XNNPACK.")
    counts = ", ".join(f"{count} {name}" for name, count in portable.most_common())
    return (batch, f"operations in ExecuTorch's portable kernels, outside XNNPACK: {counts}.")
