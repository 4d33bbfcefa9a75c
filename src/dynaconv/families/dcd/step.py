"""Code that the autograd functions of DCD share: the condition for their use, and second derivatives."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dynaconv.families.dcd.factors import DCDFactors
from dynaconv.ops.exporting import is_exporting
from dynaconv.ops.geometry import Geometry

_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def supports_step(x: Tensor, factors: DCDFactors, geometry: Geometry) -> bool:
    """Whether this is a 2-D kernel with Lambda, without S, with a residual of one block, in eager training on the CPU.

    Compilers, exporters, functorch and forward-mode differentiation support only plain operators; autocast chooses a
    dtype for each plain operator.
    """
    if not torch.is_grad_enabled():
        return False
    tensors = (x, *(part for part in factors[1:] if part is not None))
    return (
        any(tensor.requires_grad for tensor in tensors)
        and factors.form == "channel"
        and factors.scale is not None
        and factors.input_scale is None
        and factors.fusion is not None
        and geometry.dims == 2
        and not geometry.transposed
        and geometry.groups == 1
        and factors.num_blocks == 1
        and x.numel() > 0
        and all(tensor.device.type == "cpu" and tensor.dtype == x.dtype for tensor in tensors)
        and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or is_exporting() or _transformed())
        and forward_ad._current_level < 0
    )


def differentiable_gradients(
    run: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Return differentiable gradients of ``run(*inputs)``, for second derivatives; None if an input needs none."""
    # Differentiate with respect to views, because one input (Lambda) may depend on another (x).
    views = [tensor.view_as(tensor) for tensor in inputs]
    needed = [tensor for tensor in views if tensor.requires_grad]
    gradients = iter(torch.autograd.grad(run(*views), needed, gradient, create_graph=True))
    return tuple(next(gradients) if tensor.requires_grad else None for tensor in inputs)
