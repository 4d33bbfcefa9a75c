"""A network as a graph that the runtimes of phones take."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dynaconv.errors import ExportError
from dynaconv.export._failing_layer import layer_at_failure
from dynaconv.export.capture import cause
from dynaconv.export.verify import first_line
from dynaconv.interrupts import passing_interrupts


def trace(model: nn.Module, inputs: Sequence[Tensor], dynamic_shapes: Any = None) -> ExportedProgram:
    """`torch.export` of a frozen network, its means without a type of their own.

    Dynamic branches take the mean in float32 by naming it, whatever the input is. The runtimes of phones have no such
    operation, though that of a float32 input is the ordinary mean.

    Raises:
        ExportError: torch cannot trace the network.
    """

    def record() -> ExportedProgram:
        with passing_interrupts(), torch.no_grad():
            return torch.export.export(model, tuple(inputs), dynamic_shapes=dynamic_shapes, strict=False)

    try:
        program = record()
    except Exception as error:
        layer = layer_at_failure(model, record)
        place = f"at {layer}" if layer else "as a whole"
        raise ExportError(f"the network cannot be recorded {place}: {cause(error)}") from error
    plain: ExportedProgram = program.run_decompositions({torch.ops.aten.mean.dim: _mean})
    return plain


def _mean(x: Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    if dtype is None:
        return NotImplemented
    typed = x if x.dtype == dtype else x.to(dtype)
    if keepdim or not dim:
        return torch.ops.aten.mean.dim(typed, dim, keepdim)
    # XNNPACK's pooling keeps the axes it takes the mean over.
    return torch.ops.aten.squeeze.dims(torch.ops.aten.mean.dim(typed, dim, True), dim)


@contextmanager
def foreign_work(tool: str) -> Iterator[None]:
    """Run a foreign tool: without its warnings to developers, what it raises in one sentence.

    Raises:
        ExportError: The block raised something.
    """
    try:
        with passing_interrupts(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{tool} cannot take this network: {first_line(error)}") from error
