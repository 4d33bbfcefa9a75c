"""The factored 1x1 DCD convolution in training, as one autograd function with its own backward pass."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.families.dcd.factors import DCDFactors, required
from dynaconv.families.dcd.step import differentiable_gradients
from dynaconv.ops.per_sample import grouped_matmul, outer_per_sample

_POINT: tuple[list[int], ...] = ([1, 1], [0, 0], [1, 1])


def factored_step_dcd(x: Tensor, factors: DCDFactors) -> Tensor:
    """As `factored_dcd` if `supports_step` holds, with fewer passes over memory.

    W0 and Q^T are one matrix, so that the forward pass reads x once and the backward pass writes its gradient once.
    Lambda and the sum with the residual are one in-place pass. The backward pass uses x, [W0; Q^T] x and Phi Q^T x.
    """
    scale, fusion, p, q = map(required, (factors.scale, factors.fusion, factors.p, factors.q))
    out: Tensor = _FactoredStep.apply(x, factors.weight, scale, fusion, p, q)
    return out


class _FactoredStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, fusion: Tensor, p: Tensor, q: Tensor) -> Tensor:
        joined = torch.cat((weight.flatten(1), q.T))[:, :, None, None]  # (C_out + L, C_in, 1, 1)
        both = F.conv2d(x, joined)
        static, latent = _parts(both, len(p))
        mixed = grouped_matmul(fusion[:, 0], latent)
        out = F.conv2d(mixed, p[:, :, None, None])
        out.addcmul_(static, scale[:, :, None, None])
        ctx.save_for_backward(x, weight, scale, fusion, p, q, both, mixed)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, fusion, p, q, both, mixed = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_gradients(_plain, (x, weight, scale, fusion, p, q), gradient)
        static, latent = _parts(both, len(p))
        to_mixed, to_p = _conv_gradients(gradient, mixed, p[:, :, None, None], True)
        to_both = torch.empty_like(both)
        to_static, to_latent = _parts(to_both, len(p))
        to_scale = torch.mul(gradient, static, out=to_static).sum((2, 3))
        torch.mul(gradient, scale[:, :, None, None], out=to_static)
        to_latent.copy_(grouped_matmul(fusion[:, 0].transpose(1, 2), to_mixed))
        to_fusion = outer_per_sample(to_mixed, latent)
        joined = torch.cat((weight.flatten(1), q.T))[:, :, None, None]
        to_x, to_joined = _conv_gradients(to_both, x, joined, ctx.needs_input_grad[0])
        to_weight, to_q = to_joined[: len(p)], to_joined[len(p) :].flatten(1).T
        return to_x, to_weight, to_scale, to_fusion[:, None], to_p.flatten(1), to_q


def _parts(both: Tensor, out_channels: int) -> tuple[Tensor, Tensor]:
    """Return views of W0 x and of Q^T x."""
    return both[:, :out_channels], both[:, out_channels:]


def _conv_gradients(gradient: Tensor, x: Tensor, weight: Tensor, for_x: bool) -> tuple[Tensor, Tensor]:
    """Return the gradients of a plain 1x1 convolution with respect to ``x`` (if ``for_x``) and to its weight."""
    to_x, to_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, *_POINT, False, [0, 0], 1, [for_x, True, False]
    )
    return to_x, to_weight


def _plain(x: Tensor, weight: Tensor, scale: Tensor, fusion: Tensor, p: Tensor, q: Tensor) -> Tensor:
    static, latent = F.conv2d(x, weight), F.conv2d(x, q.T[:, :, None, None])
    return static * scale[:, :, None, None] + grouped_matmul(torch.matmul(p, fusion[:, 0]), latent)
