"""Traces a network for ExecuTorch and LiteRT."""

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
from dynaconv.interrupts import propagating_interrupts


def trace(model: nn.Module, inputs: Sequence[Tensor], dynamic_shapes: Any = None) -> ExportedProgram:
    """Trace a frozen network with `torch.export` and remove the ``dtype`` argument of its means.

    Dynamic branches compute the mean in float32 by ``mean(dtype=torch.float32)``, whatever the dtype of the input.
    ExecuTorch and LiteRT do not support this argument. For a float32 input it changes nothing; other inputs are
    converted first.

    Raises:
        ExportError: torch cannot trace the network.
    """

    def export() -> ExportedProgram:
        with propagating_interrupts(), torch.no_grad():
            return torch.export.export(model, tuple(inputs), dynamic_shapes=dynamic_shapes, strict=False)

    try:
        program = export()
    except Exception as error:
        layer = layer_at_failure(model, export)
        location = f" at {layer}" if layer else ""
        raise ExportError(f"the network cannot be traced{location}: {cause(error)}") from error
    decomposed: ExportedProgram = program.run_decompositions({torch.ops.aten.mean.dim: _mean_without_dtype})
    return decomposed


def _mean_without_dtype(
    x: Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    if dtype is None:
        return NotImplemented
    typed = x if x.dtype == dtype else x.to(dtype)
    if keepdim or not dim:
        return torch.ops.aten.mean.dim(typed, dim, keepdim)
    # XNNPACK computes the mean as pooling, which supports only keepdim=True.
    return torch.ops.aten.squeeze.dims(torch.ops.aten.mean.dim(typed, dim, True), dim)


@contextmanager
def external_tool(tool: str) -> Iterator[None]:
    """Hide the warnings of an external tool and raise its exceptions as `ExportError` with one sentence.

    Raises:
        ExportError: The block raised an exception.
    """
    try:
        with propagating_interrupts(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{tool} does not support this network: {first_line(error)}") from error
