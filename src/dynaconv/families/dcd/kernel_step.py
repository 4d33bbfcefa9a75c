"""The 1x1 DCD convolution with formed kernels in training, as one autograd function with its own backward pass."""

from typing import Any

import torch
from torch import Tensor

from dynaconv.families.dcd.factors import DCDFactors, required
from dynaconv.ops.eager import differentiable_gradients, not_a_view
from dynaconv.ops.per_sample import grouped_matmul, outer_per_sample, times_transposed


def kernel_step_dcd(x: Tensor, factors: DCDFactors) -> Tensor:
    """As `kernel_dcd` if `supports_step` holds, with fewer passes over W(x) and its gradient.

    P and Q are each applied by one product for the whole batch. The backward pass uses x, W(x) and P Phi(x).
    """
    scale, fusion, p, q = map(required, (factors.scale, factors.fusion, factors.p, factors.q))
    out: Tensor = _KernelStep.apply(x, factors.weight, scale, fusion, p, q)
    return out


class _KernelStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, fusion: Tensor, p: Tensor, q: Tensor) -> Tensor:
        mixed = torch.bmm(p.expand(len(x), -1, -1), fusion[:, 0])  # (B, C_out, L)
        kernel = torch.mm(mixed.flatten(0, 1), q.T).view(len(x), len(p), len(q))
        kernel.addcmul_(weight.flatten(1), scale[:, :, None])
        ctx.save_for_backward(x, weight, scale, fusion, p, q, kernel, mixed)
        return not_a_view(grouped_matmul(kernel, x))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, fusion, p, q, kernel, mixed = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_gradients(_plain, (x, weight, scale, fusion, p, q), gradient)
        to_x = times_transposed(kernel, gradient, x) if ctx.needs_input_grad[0] else None
        to_kernel = outer_per_sample(gradient, x)  # (B, C_out, C_in)
        rows = to_kernel.flatten(0, 1)
        to_mixed = torch.mm(rows, q).view_as(mixed)
        to_q = torch.mm(rows.T, mixed.flatten(0, 1))
        to_fusion = torch.bmm(p.T.expand(len(x), -1, -1), to_mixed)
        to_p = torch.bmm(to_mixed, fusion[:, 0].transpose(1, 2)).sum(0)
        to_scale = (to_kernel * weight.flatten(1)).sum(2)
        to_weight = to_kernel.mul_(scale[:, :, None]).sum(0)
        return to_x, to_weight.view_as(weight), to_scale, to_fusion[:, None], to_p, to_q


def _plain(x: Tensor, weight: Tensor, scale: Tensor, fusion: Tensor, p: Tensor, q: Tensor) -> Tensor:
    return grouped_matmul(weight.flatten(1) * scale[:, :, None] + p @ fusion[:, 0] @ q.T, x)
