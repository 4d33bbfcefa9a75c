"""DCD by applying its factors to feature maps, without forming W(x)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dynaconv.families.dcd.factored_step import factored_step_dcd
from dynaconv.families.dcd.factors import DCDFactors, required, split_rows
from dynaconv.families.dcd.step import supports_step
from dynaconv.ops.compiling import saved_for_backward
from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.per_sample import grouped_matmul, pad_pixels, place_tap
from dynaconv.ops.shared import shared_conv

Norm = Callable[[Tensor], Tensor]


def factored_dcd(x: Tensor, factors: DCDFactors, geometry: Geometry, norms: tuple[Norm, Norm] | None = None) -> Tensor:
    """As `reference_dcd`, by one shared convolution with W0 and a residual path through the latent space.

    In the channel form the residual path adds about L (C_in + C_out) MACs per output pixel. Phi is multiplied into P
    first, at no cost per pixel.

    Args:
        x: Input, ``(B, C_in, *sizes)``.
        factors: The factors of W(x).
        geometry: Stride, padding, dilation and groups.
        norms: BN1 and BN2 of the normalised form (`reference_normalised_dcd`); only with form ``channel``.

    Returns:
        ``(B, C_out, *out_sizes)``, without a bias.
    """
    if norms is None and supports_step(x, factors, geometry):
        return factored_step_dcd(x, factors, geometry)
    if factors.input_scale is not None:
        x = x * over_pixels(factors.input_scale.to(x.dtype), geometry.dims)
    out = shared_conv(x, factors.weight, geometry)
    if factors.scale is not None:
        out = out * over_pixels(factors.scale.to(out.dtype), geometry.dims)
    if factors.fusion is None:
        return out
    if factors.form == "depthwise":
        return out + _depthwise_residual(x, factors, geometry)
    if factors.form == "joint":
        return out + _joint_residual(x, factors, geometry)
    if norms is not None:
        return out + _normalised_residual(x, factors, geometry, norms)
    return out + _channel_residual(x, factors, geometry)


def project(x: Tensor, q: Tensor, blocks: int, stride: Sequence[int] | None = None) -> Tensor:
    """Q^T x, block by block: ``(B, C_in, *sizes)`` to ``(B, blocks * L, *out_sizes)``."""
    weight = split_rows(q, blocks).transpose(1, 2).flatten(0, 1)
    return _point_conv(x, weight, blocks, stride)


def _point_conv(x: Tensor, weight: Tensor, groups: int, stride: Sequence[int] | None = None) -> Tensor:
    """Convolve with a single tap, ``(C_out, C_in / groups)``."""
    dims = x.dim() - 2
    return shared_conv(x, over_pixels(weight, dims), Geometry.point(dims, stride, groups))


def _channel_residual(x: Tensor, factors: DCDFactors, geometry: Geometry) -> Tensor:
    p, q, fusion = required(factors.p), required(factors.q), required(factors.fusion)
    blocks = factors.num_blocks
    expand = torch.matmul(split_rows(p, blocks), fusion.to(p.dtype)).flatten(1, 2)
    if geometry.transposed:
        latent = project(x, q, blocks)
        return place_tap(grouped_matmul(expand.to(latent.dtype), latent, blocks), geometry, geometry.centre)
    latent = project(_centre_tap_input(x, geometry), q, blocks, geometry.stride)
    return grouped_matmul(expand.to(latent.dtype), latent, blocks)


def _normalised_residual(x: Tensor, factors: DCDFactors, geometry: Geometry, norms: tuple[Norm, Norm]) -> Tensor:
    p, q, fusion = required(factors.p), required(factors.q), required(factors.fusion)
    blocks = factors.num_blocks
    latent = norms[0](project(_centre_tap_input(x, geometry), q, blocks, geometry.stride))
    fused = saved_for_backward(grouped_matmul(fusion.to(latent.dtype).flatten(1, 2), latent, blocks))
    return _point_conv(norms[1](fused) + latent, p, blocks)


def _joint_residual(x: Tensor, factors: DCDFactors, geometry: Geometry) -> Tensor:
    p, q, r, fusion = map(required, (factors.p, factors.q, factors.r, factors.fusion))
    blocks = factors.num_blocks
    latent = project(x, q, blocks)
    filtered = _filter_each(latent, r, geometry, latent.shape[1])  # (B, blocks * L * L_k, *out_sizes)
    matrix = fusion.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)  # (B, blocks * L, L * L_k)
    fused = saved_for_backward(grouped_matmul(matrix.to(filtered.dtype), filtered, blocks))
    return _point_conv(fused, p, blocks)


def _depthwise_residual(x: Tensor, factors: DCDFactors, geometry: Geometry) -> Tensor:
    p, r, fusion = required(factors.p), required(factors.r), required(factors.fusion)
    filtered = _filter_each(x, r, geometry, geometry.groups)  # (B, C_in * L_k, *out_sizes)
    mix = torch.matmul(p, fusion.to(p.dtype))  # (B, C_out, L_k)
    return grouped_matmul(mix.to(filtered.dtype), filtered, geometry.groups)


def _filter_each(x: Tensor, r: Tensor, geometry: Geometry, channels: int) -> Tensor:
    """Filter every channel with each of the L_k columns of R: ``(B, C, *sizes)`` to ``(B, C * L_k, *out_sizes)``."""
    filters = r.T.reshape(-1, 1, *geometry.kernel_size).repeat(channels, *(1,) * (geometry.dims + 1))
    return shared_conv(x, filters, geometry._replace(groups=channels))


def _centre_tap_input(x: Tensor, geometry: Geometry) -> Tensor:
    """Shift, crop or zero-pad ``x`` so that a 1x1 convolution of the same stride reads the pixels of the centre tap."""
    offsets = [d * c - p for d, c, p in zip(geometry.dilation, geometry.centre, geometry.padding, strict=True)]
    odd = all(k % 2 == 1 for k in geometry.kernel_size)
    if odd and not any(offsets):
        return x
    sizes = zip(x.shape[2:], geometry.output_size(*x.shape[2:]), geometry.stride, offsets, strict=True)
    ends = [offset + (out - 1) * stride + 1 - size for size, out, stride, offset in sizes]
    return pad_pixels(x, [-offset for offset in offsets], ends)
