"""The factored DCD convolution in training, as one autograd function with its own backward pass."""

import functools
from typing import Any

import torch
from torch import Tensor

from dynaconv.families.dcd.factors import DCDFactors, at_centre, required
from dynaconv.ops.eager import differentiable_gradients, not_a_view
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.per_sample import grouped_matmul, outer_per_sample
from dynaconv.ops.shared import static_conv

_BLOCK = 16
"""Output channels that a CPU convolution computes at a time; a few more than a multiple cost as much as a block."""


def factored_step_dcd(x: Tensor, factors: DCDFactors, geometry: Geometry) -> Tensor:
    """As `factored_dcd` if `supports_step` holds, with fewer passes over memory.

    Where Q^T fits beside W0, both are one kernel with Q^T at the centre tap, so that the forward pass reads x once and
    the backward pass writes its gradient once; elsewhere Q^T is a matrix product, whose gradient is added in place.
    Lambda and the sum with the residual are one in-place pass. The backward pass uses x, W0 x, Q^T x and P Phi.
    """
    scale, fusion, p, q = map(required, (factors.scale, factors.fusion, factors.p, factors.q))
    out: Tensor = _FactoredStep.apply(x, factors.weight, scale, fusion, p, q, geometry)
    return out


def joins(out_channels: int, latent_dim: int, geometry: Geometry) -> bool:
    """Whether W0 and Q^T run as one kernel.

    They do for 1x1 kernels, where Q^T fits into the last block of W0's output channels, and where the centre tap reads
    pixels outside of the input.
    """
    aligned = all(
        k % 2 == 1 and p == d * (k // 2)
        for k, p, d in zip(geometry.kernel_size, geometry.padding, geometry.dilation, strict=True)
    )
    return geometry.pointwise or fits_beside(out_channels, latent_dim) or not aligned


def fits_beside(out_channels: int, latent_dim: int) -> bool:
    """Whether a convolution with W0 has room for Q^T in its last block of output channels."""
    return -(-(out_channels + latent_dim) // _BLOCK) == -(-out_channels // _BLOCK)


class Products:
    """W0 x and Q^T x, by one kernel where `joins` holds, and their gradients.

    Args:
        weight: W0, ``(C_out, C_in, k_h, k_w)``.
        q: ``(C_in, L)``.
        geometry: Stride, padding and dilation.
    """

    def __init__(self, weight: Tensor, q: Tensor, geometry: Geometry) -> None:
        self.weight, self.q, self.geometry = weight, q, geometry
        self.joined = joins(len(weight), q.shape[1], geometry)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return W0 x and Q^T x; joined, they are views of one tensor, in which Q^T x follows W0 x."""
        if self.joined:
            return _parts(
                static_conv(x, join_kernels(self.weight, self.q, self.geometry), self.geometry), len(self.weight)
            )
        latent = grouped_matmul(self.q.T.expand(len(x), -1, -1), _strided(x, self.geometry))
        return static_conv(x, self.weight, self.geometry), latent

    def empty_like(self, static: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `gradients` reads, empty, and the parts of it that belong to W0 x and Q^T x."""
        if not self.joined:
            to_static = torch.empty_like(static)
            return to_static, to_static, torch.empty_like(latent)
        both = _empty_joined(static, latent)
        return both, *_parts(both, len(self.weight))

    def gradients(
        self, x: Tensor, to_both: Tensor, to_latent: Tensor, *, for_x: bool
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return the gradients of x (if ``for_x``), W0 and Q."""
        weight, q, geometry = self.weight, self.q, self.geometry
        if self.joined:
            to_x, to_kernel = conv_gradients(to_both, x, join_kernels(weight, q, geometry), geometry, for_x)
            return to_x, *split_kernels(to_kernel, len(weight), geometry)
        to_x, to_weight = conv_gradients(to_both, x, weight, geometry, for_x)
        to_q = outer_per_sample(_strided(x, geometry), to_latent).sum(0)
        if for_x:
            _add_product(_strided(to_x, geometry), q, to_latent)
        return to_x, to_weight, to_q


class _FactoredStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        fusion: Tensor,
        p: Tensor,
        q: Tensor,
        geometry: Geometry,
    ) -> Tensor:
        static, latent = Products(weight, q, geometry)(x)
        mix = torch.matmul(p, fusion[:, 0])  # (B, C_out, L)
        out = grouped_matmul(mix, latent)
        out.addcmul_(static, scale[:, :, None, None])
        ctx.geometry = geometry
        ctx.save_for_backward(x, weight, scale, fusion, p, q, static, latent, mix)
        return not_a_view(out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, fusion, p, q, static, latent, mix = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        if torch.is_grad_enabled():
            plain = functools.partial(plain_factored_step, geometry)
            return *differentiable_gradients(plain, (x, weight, scale, fusion, p, q), gradient), None
        products = Products(weight, q, geometry)
        to_base, to_static, to_latent = products.empty_like(static, latent)
        to_scale = torch.mul(gradient, static, out=to_static).sum((2, 3))
        torch.mul(gradient, scale[:, :, None, None], out=to_static)
        to_latent.copy_(grouped_matmul(mix.transpose(1, 2), gradient))
        to_x, to_weight, to_q = products.gradients(x, to_base, to_latent, for_x=ctx.needs_input_grad[0])
        to_mix = outer_per_sample(gradient, latent)
        to_fusion = torch.matmul(p.T, to_mix)[:, None]
        to_p = torch.bmm(to_mix, fusion[:, 0].transpose(1, 2)).sum(0)
        return to_x, to_weight, to_scale, to_fusion, to_p, to_q, None


def _strided(x: Tensor, geometry: Geometry) -> Tensor:
    """Return a view of the pixels that the centre tap reads."""
    return x if geometry.stride == (1, 1) else x[:, :, :: geometry.stride[0], :: geometry.stride[1]]


def _add_product(into: Tensor, q: Tensor, latent: Tensor) -> None:
    """Add Q z to a feature map in place."""
    if into.is_contiguous():
        into.view(*into.shape[:2], -1).baddbmm_(q.expand(len(into), -1, -1), latent.flatten(2))
    elif into.is_contiguous(memory_format=torch.channels_last):
        rows = latent.permute(0, 2, 3, 1).flatten(0, 2)
        into.permute(0, 2, 3, 1).view(-1, len(q)).addmm_(rows, q.T)
    else:
        into.add_(grouped_matmul(q.expand(len(into), -1, -1), latent))


def join_kernels(weight: Tensor, q: Tensor, geometry: Geometry) -> Tensor:
    """Return W0 and, at the centre tap of further output channels, Q^T: ``(C_out + L, C_in, k_h, k_w)``."""
    return torch.cat((weight, at_centre(q.T, geometry)))


def split_kernels(kernels: Tensor, out_channels: int, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return the two parts of what `join_kernels` returns, W0 and Q."""
    return kernels[:out_channels], kernels[out_channels:, :, geometry.centre[0], geometry.centre[1]].T


def _parts(both: Tensor, out_channels: int) -> tuple[Tensor, Tensor]:
    """Return views of W0 x and of Q^T x."""
    return both[:, :out_channels], both[:, out_channels:]


def _empty_joined(static: Tensor, latent: Tensor) -> Tensor:
    """Return an empty tensor of which `_parts` are as ``static`` and ``latent``, which are parts of such a tensor."""
    batch, channels, height, width = static.shape
    strides = static.stride()
    size = (batch, channels + latent.shape[1], height, width)
    return torch.empty_strided(size, strides, dtype=static.dtype, device=static.device)


def conv_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, for_x: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a convolution with respect to ``x`` (if ``for_x``) and to its weight."""
    arguments = (geometry.stride, geometry.padding, geometry.dilation, False, [0, 0], 1)
    to_x, to_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, *arguments, [for_x, True, False]
    )
    return to_x, to_weight


def plain_factored_step(
    geometry: Geometry, x: Tensor, weight: Tensor, scale: Tensor, fusion: Tensor, p: Tensor, q: Tensor
) -> Tensor:
    """As `factored_step_dcd`, by plain operators."""
    static, latent = _parts(static_conv(x, join_kernels(weight, q, geometry), geometry), len(p))
    return static * scale[:, :, None, None] + grouped_matmul(torch.matmul(p, fusion[:, 0]), latent)
