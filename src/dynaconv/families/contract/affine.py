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


def fixed(tensor: Tensor) -> nn.Parameter:
    """A parameter of its own that needs no gradient, laid out as the tensor is."""
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)


@torch.no_grad()
def multiply_rows(parameter: Tensor, scale: Tensor, axis: int = -1) -> nn.Parameter:
    """A fixed parameter: the one given, entry c along ``axis`` multiplied by ``scale[c]``, in its dtype and layout."""
    dtype = context_dtype(parameter.dtype)
    shape = [1] * parameter.dim()
    shape[axis] = scale.shape[0]
    product = parameter.to(dtype) * scale.to(parameter.device, dtype).reshape(shape)
    return fixed(product.to(parameter.dtype))


@torch.no_grad()
def plus(parameter: Tensor | None, shift: Tensor, like: Tensor) -> nn.Parameter:
    """The sum of two vectors as a fixed parameter, of the type and place of ``like``; None counts as zero."""
    total = shift.to(like.device, context_dtype(like.dtype))
    return fixed((total if parameter is None else parameter.to(total.dtype) + total).to(like.dtype))
