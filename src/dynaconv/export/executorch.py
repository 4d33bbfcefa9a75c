"""ExecuTorch programs (``.pte``) for phones, their operations given to XNNPACK's kernels."""

from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dynaconv.errors import ExportError
from dynaconv.export._traced import foreign_work, trace
from dynaconv.export.capture import frozen_copy
from dynaconv.export.packages import require, versioned
from dynaconv.export.report import ExportReport
from dynaconv.export.target import verified_target
from dynaconv.export.verify import LIMIT, as_inputs, named_outputs, random_inputs, verify

# Above this batch torch's CPU convolution takes another path, and asks at export which side of it the batch is on.
_PATH_CHANGES_AT = 16
# What moves or gives no data, and so belongs to no kernel.
_NO_KERNEL = ("executorch_call_delegate", "getitem", "sym_size", "alloc")


def export_executorch(
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    max_batch: int = 8,
    overwrite: bool = False,
) -> ExportReport:
    """Write an ExecuTorch program that runs in XNNPACK's kernels, after it was run beside the network.

    The batch is free from 1 to ``max_batch``: ExecuTorch plans its memory ahead for the largest. Height and width are
    those of ``example``.

    Args:
        model: Any network; it is not changed.
        path: The ``.pte`` file to write.
        example: Its input ``(B, C, H, W)``, of any batch size, or a tuple of inputs.
        max_batch: The largest batch that the program will take; 1 fixes it at 1.
        overwrite: Whether a file that is there may be replaced.

    Returns:
        What was written; its notes say what stays outside XNNPACK.

    Raises:
        ExportError: executorch is not installed, it cannot take the network, the file cannot be written, or what it
            computes differs; no file is left.
    """
    if not isinstance(max_batch, int) or isinstance(max_batch, bool) or max_batch < 1:
        raise ExportError(f"`max_batch` is a whole number of at least 1; got {max_batch!r}.")
    require("executorch", extra="executorch", what="export_executorch")
    inputs = as_inputs(example)
    with verified_target(path, suffixes=(".pte",), overwrite=overwrite) as file:
        frozen = frozen_copy(model)
        with foreign_work("ExecuTorch"):
            traced = _traced(frozen, inputs, max_batch)
            written, portable = _lower(traced)
            run = _runner(written)
        file.write_bytes(written)
        runtime = f"{versioned('executorch', 'ExecuTorch')} with XNNPACK"
        checks = verify(run, frozen, inputs, runtime=runtime, batches=_batches(max_batch))
        outputs = tuple(named_outputs(frozen(*inputs)))
    target = Path(path).expanduser()
    first = "batch" if max_batch > 1 else 1
    names = [spec for spec in traced.graph_signature.user_inputs if isinstance(spec, str)]
    return ExportReport(
        format="ExecuTorch",
        runtime=runtime,
        path=target,
        files=(target,),
        inputs={name: (first, *each.shape[1:]) for name, each in zip(names, inputs, strict=True)},
        outputs=outputs,
        free_axes=("batch",) if max_batch > 1 else (),
        checks=checks,
        limit=LIMIT,
        notes=_notes(max_batch, portable),
    )


def _traced(frozen: nn.Module, inputs: tuple[Tensor, ...], max_batch: int) -> ExportedProgram:
    """Trace with a batch between 1 and a bound that torch keeps as it is.

    A bound of 2 would be the only batch that torch does not treat apart, and one at which a convolution's path changes
    would leave that batch alone: both would fix it.
    """
    if max_batch == 1:
        return trace(frozen, random_inputs(inputs, 1))
    bound = max_batch + (max_batch in (2, _PATH_CHANGES_AT))
    # Traced on the side of the change on which the bound lies; the other side's bound is the change itself.
    batch = 2 if bound < _PATH_CHANGES_AT else bound
    axis = Dim("batch", min=1, max=bound)
    return trace(frozen, random_inputs(inputs, batch), dynamic_shapes=_first_axes(inputs, axis))


def _first_axes(inputs: Sequence[Tensor], axis: Any) -> Any:
    return tuple({0: axis} for _ in inputs)


def _lower(program: ExportedProgram) -> tuple[bytes, Counter[str]]:
    """The file's bytes, and how often each operation is left to ExecuTorch's own portable kernels."""
    xnnpack = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner
    fold = import_module("executorch.exir.passes.constant_prop_pass").constant_prop_pass
    lower = import_module("executorch.exir").to_edge_transform_and_lower
    with torch.no_grad():
        # XNNPACK takes kernels that are constants, not views of parameters as the factors P and Q are.
        lowered = lower(fold(program), partitioner=[xnnpack()])
        operations = [
            str(getattr(node.target, "__name__", node.target)).removeprefix("aten.").partition(".")[0]
            for node in lowered.exported_program().graph.nodes
            if node.op == "call_function"
        ]
        kept = Counter(name for name in operations if not name.startswith(_NO_KERNEL))
        return bytes(lowered.to_executorch().buffer), kept


def _runner(written: bytes) -> Callable[..., list[Tensor]]:
    method = import_module("executorch.runtime").Runtime.get().load_program(written).load_method("forward")

    def run(*inputs: Tensor) -> list[Tensor]:
        return list(method.execute([each.contiguous() for each in inputs]))

    return run


def _batches(max_batch: int) -> tuple[int, ...]:
    return tuple(sorted({1, min(3, max_batch), max_batch}))


def _notes(max_batch: int, portable: Counter[str]) -> tuple[str, ...]:
    batch = (
        f"the batch may be 1 to {max_batch}; pass max_batch for another bound."
        if max_batch > 1
        else "the batch is 1; pass max_batch for more."
    )
    if not portable:
        return (batch, "everything runs in XNNPACK.")
    left = ", ".join(f"{count} {name}" for name, count in portable.most_common())
    return (batch, f"outside XNNPACK, in ExecuTorch's portable kernels: {left}.")
