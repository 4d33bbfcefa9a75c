"""Per-channel factors and offsets, applied to a layer's output or folded into its parameters."""

import torch
from torch import Tensor, nn

from dynaconv.families.contract.branch import context_dtype
from dynaconv.ops import is_exporting, over_pixels


def add_bias(out: Tensor, bias: Tensor | None) -> Tensor:
    """Add ``(B, C)`` or ``(C,)`` to an output ``(B, C, *sizes)``, in its dtype; may change the output in place."""
    if bias is None:
        return out
    bias = over_pixels(bias.to(out.dtype), out.dim() - 2)
    # Adding in place saves memory, but only if no gradient is recorded: matrix products return views, which autograd
    # copies for an in-place operation.
    recorded = torch.is_grad_enabled() and (out.requires_grad or bias.requires_grad)
    return out + bias if recorded or is_exporting() else out.add_(bias)


def frozen_parameter(tensor: Tensor) -> nn.Parameter:
    """Return a copy of a tensor as a parameter without gradient, in the same memory format."""
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)


@torch.no_grad()
def multiply_rows(parameter: Tensor, scale: Tensor, axis: int = -1) -> nn.Parameter:
    """Return a frozen copy of a parameter with entry c along ``axis`` multiplied by ``scale[c]``.

    The copy has the dtype and memory format of the parameter.
    """
    dtype = context_dtype(parameter.dtype)
    shape = [1] * parameter.dim()
    shape[axis] = scale.shape[0]
    product = parameter.to(dtype) * scale.to(parameter.device, dtype).reshape(shape)
    return frozen_parameter(product.to(parameter.dtype))


@torch.no_grad()
def frozen_sum(parameter: Tensor | None, shift: Tensor, like: Tensor) -> nn.Parameter:
    """Return the sum of two vectors as a frozen parameter with dtype and device of ``like``; None counts as zero."""
    total = shift.to(like.device, context_dtype(like.dtype))
    return frozen_parameter((total if parameter is None else parameter.to(total.dtype) + total).to(like.dtype))
