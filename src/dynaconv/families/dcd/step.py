"""What the operators of a DCD training step share: where they run, and their second derivative."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dynaconv.families.dcd.factors import DCDFactors
from dynaconv.ops.exporting import is_exporting
from dynaconv.ops.geometry import Geometry

_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def takes_step(x: Tensor, factors: DCDFactors, geometry: Geometry) -> bool:
    """Whether this is a 1x1 kernel with both parts, in eager training on the CPU.

    Compilers, exporters, functorch and forward-mode differentiation see through plain operators only; autocast chooses
    a type for each of those.
    """
    if not torch.is_grad_enabled():
        return False
    tensors = (x, *(part for part in factors[1:] if part is not None))
    return (
        any(tensor.requires_grad for tensor in tensors)
        and factors.form == "channel"
        and factors.scale is not None
        and factors.fusion is not None
        and geometry == Geometry((1, 1))
        and factors.num_blocks == 1
        and x.numel() > 0
        and all(tensor.device.type == "cpu" and tensor.dtype == x.dtype for tensor in tensors)
        and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or is_exporting() or _transformed())
        and forward_ad._current_level < 0
    )


def recorded_gradients(
    run: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of ``run(*inputs)`` by recorded operators, for a second derivative; None where none is needed."""
    # Views, where the derivative ends: one input (Lambda) may itself have been computed from another (x).
    views = [tensor.view_as(tensor) for tensor in inputs]
    needed = [tensor for tensor in views if tensor.requires_grad]
    found = iter(torch.autograd.grad(run(*views), needed, gradient, create_graph=True))
    return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)
