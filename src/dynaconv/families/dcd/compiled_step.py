"""A whole DCD layer in training, branch included, by compiled operators."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.families.contract.branch import bounded_rows, inverse_length
from dynaconv.families.dcd.factored_step import Products, plain_factored_step
from dynaconv.families.dcd.factors import activate_scale, inverse_lengths
from dynaconv.ops.eager import differentiable_gradients, trains_eagerly
from dynaconv.ops.geometry import Geometry

_LANES = 8
"""The operators take a multiple of this many output channels."""


def supports_compiled_step(x: Tensor, tensors: Sequence[Tensor], geometry: Geometry) -> bool:
    """Whether the operators serve this input of a layer with the default branch; ``tensors`` begin with W0."""
    return (
        geometry.dims == 2
        and geometry.groups == 1
        and not geometry.transposed
        and len(tensors[0]) % _LANES == 0
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and trains_eagerly((x, *tensors), torch.float32)
    )


def compiled_step_dcd(
    x: Tensor, context: Tensor, parameters: Sequence[Tensor], settings: Sequence[float], geometry: Geometry
) -> Tensor:
    """Return W(x) x, ``(B, C_out, H_out, W_out)``, if `supports_compiled_step` holds.

    Args:
        x: Input, ``(B, C_in, H, W)``, channels_last.
        context: The normalised context, ``(B, F)``.
        parameters: W0, the branch's first map ``(H, F)``, its heads for Lambda ``(C_out, H)`` and Phi
            ``(L * L, H)``, P and Q.
        settings: The branch's gain, and the bounds of the heads for Lambda and Phi.
        geometry: Stride, padding and dilation.
    """
    weight, *branch = parameters
    out: Tensor = _CompiledStep.apply(x, weight, context, *branch, tuple(settings), geometry)
    return out


class _CompiledStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
        *branch, settings, geometry = arguments
        branch = [part.contiguous() for part in branch]
        p, q = branch[-2:]
        batch, (out_channels, latent_dim) = len(x), p.shape
        products = Products(weight, q, geometry)
        fixed, latent = products(x)
        hidden = len(branch[1])
        scale, mix = x.new_empty(batch, out_channels), x.new_empty(batch, out_channels * latent_dim)
        saved = x.new_empty(batch * (2 * hidden + 1 + out_channels + latent_dim**2))
        torch.ops.dynaconv.dcd_branch(branch, settings, [scale, mix, saved])
        ctx.settings, ctx.geometry = settings, geometry
        ctx.save_for_backward(x, weight, *branch, fixed, latent, scale, mix, saved)
        out = torch.empty(fixed.shape, dtype=x.dtype, memory_format=torch.channels_last)
        result: Tensor = torch.ops.dynaconv.dcd_sum(fixed, latent, scale, mix, out)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *branch, fixed, latent, scale, mix, saved = ctx.saved_tensors
        settings, geometry = ctx.settings, ctx.geometry
        if torch.is_grad_enabled():
            plain = functools.partial(_plain, settings, geometry)
            return *differentiable_gradients(plain, (x, weight, *branch), gradient), None, None
        products = Products(weight, branch[-1], geometry)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        to_base, to_fixed, to_latent = products.empty_like(fixed, latent)
        to_scale, to_mix = torch.empty_like(scale), torch.empty_like(mix)
        torch.ops.dynaconv.dcd_sum_gradients(
            fixed, latent, scale, mix, gradient, [to_fixed, to_latent, to_scale, to_mix]
        )
        to_x, to_weight, to_q = products.gradients(x, to_base, to_latent, for_x=ctx.needs_input_grad[0])
        to_branch = [torch.empty_like(part) for part in branch]
        torch.ops.dynaconv.dcd_branch_gradients(branch, settings, saved, to_scale, to_mix, to_branch)
        to_branch[-1] += to_q
        return to_x, to_weight, *to_branch, None, None


def _plain(settings: Sequence[float], geometry: Geometry, x: Tensor, weight: Tensor, *branch: Tensor) -> Tensor:
    context, squeeze, scale_head, fusion_head, p, q = branch
    gain, *bounds = settings
    hidden = F.relu(context @ squeeze.T)
    hidden = hidden * (gain * inverse_length(hidden))
    heads = zip((scale_head, fusion_head), bounds, strict=True)
    logits, fusion = (hidden @ bounded_rows(head, bound).T for head, bound in heads)
    latent_dim = p.shape[1]
    fusion = fusion.view(-1, 1, latent_dim, latent_dim) * inverse_lengths([(p, latent_dim), (q, latent_dim)])
    return plain_factored_step(geometry, x, weight, activate_scale(logits, "sigmoid"), fusion, p, q)
