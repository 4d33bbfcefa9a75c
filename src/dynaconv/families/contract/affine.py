"""A factor or a summand a channel: added to a layer's output, or taken into its parameters once and for all."""

import torch
from torch import Tensor, nn

from dynaconv.families.contract.branch import context_dtype
from dynaconv.ops import is_exporting


def add_bias(out: Tensor, bias: Tensor | None) -> Tensor:
    """Add ``(B, C)`` or ``(C,)`` to a fresh output ``(B, C, H, W)``, in the output's dtype."""
    if bias is None:
        return out
    bias = bias.to(out.dtype)[..., None, None]
    # In place, which spares a second block of memory, where no gradient is recorded: on the views that products of
    # matrices end in, autograd would copy for it.
    recorded = torch.is_grad_enabled() and (out.requires_grad or bias.requires_grad)
    return out + bias if recorded or is_exporting() else out.add_(bias)


@torch.no_grad()
def multiply_rows(parameter: Tensor, scale: Tensor, axis: int = -1) -> nn.Parameter:
    """A new parameter: the old one, entry c along ``axis`` multiplied by ``scale[c]``, in its dtype and layout."""
    dtype = context_dtype(parameter.dtype)
    shape = [1] * parameter.dim()
    shape[axis] = scale.shape[0]
    product = parameter.to(dtype) * scale.to(parameter.device, dtype).reshape(shape)
    return nn.Parameter(product.to(parameter.dtype), requires_grad=parameter.requires_grad)


@torch.no_grad()
def add_to(parameter: Tensor | None, shift: Tensor, like: Tensor) -> nn.Parameter:
    """A new parameter: the old one plus ``shift``; where there is none ``shift`` itself, trainable as ``like`` is."""
    own = like if parameter is None else parameter
    dtype = context_dtype(own.dtype)
    total = shift.to(own.device, dtype)
    if parameter is not None:
        total = parameter.to(dtype) + total
    return nn.Parameter(total.to(own.dtype).clone(), requires_grad=own.requires_grad)
