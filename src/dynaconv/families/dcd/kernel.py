"""DCD by forming the kernel of each sample and convolving with it."""

import torch
from torch import Tensor

from dynaconv.families.dcd.factors import DCDFactors, at_centre, required, split_rows
from dynaconv.families.dcd.kernel_step import kernel_step_dcd
from dynaconv.families.dcd.step import supports_step
from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.per_sample import per_sample_conv
from dynaconv.ops.precision import autocasts


def kernel_dcd(x: Tensor, factors: DCDFactors, geometry: Geometry) -> Tensor:
    """As `reference_dcd`, with all kernels formed at once: B * C_in * C_out * k^2 elements, no extra work per pixel."""
    if geometry == Geometry((1, 1)) and supports_step(x, factors, geometry):
        return kernel_step_dcd(x, factors)
    return per_sample_conv(x, dcd_kernel(factors, geometry, x.shape[0]), geometry)


def dcd_kernel(factors: DCDFactors, geometry: Geometry, batch: int) -> Tensor:
    """Return W(x) of each sample, as `reference_dcd_kernel` defines it.

    Args:
        factors: The factors of W(x).
        geometry: Kernel size and groups.
        batch: B.

    Returns:
        ``(B, C_out, C_in / groups, *k)`` in the dtype of W0.
    """
    if _is_plain(factors, geometry):
        return over_pixels(_plain_kernel(factors), geometry.dims)
    kernel = factors.weight.expand(batch, *factors.weight.shape)
    if factors.scale is not None:
        kernel = kernel * over_pixels(factors.scale, geometry.dims + 1)
    if factors.fusion is not None:
        kernel = kernel + _residual(factors, geometry)
    if factors.input_scale is not None:
        groups, (out_channels, per_group) = geometry.groups, factors.weight.shape[:2]
        by_group = factors.input_scale.reshape(batch, groups, 1, per_group).expand(-1, -1, out_channels // groups, -1)
        kernel = kernel * over_pixels(by_group.reshape(batch, out_channels, per_group), geometry.dims)
    return kernel.to(factors.weight.dtype)


def _is_plain(factors: DCDFactors, geometry: Geometry) -> bool:
    """Whether this is a 1x1 kernel with a residual of one block and without S(x), all of one dtype."""
    fusion, weight = factors.fusion, factors.weight
    return (
        fusion is not None
        and factors.input_scale is None
        and factors.form == "channel"
        and geometry.pointwise
        and fusion.shape[1] == 1
        and fusion.dtype == weight.dtype
        and not autocasts(weight.device)
    )


def _plain_kernel(factors: DCDFactors) -> Tensor:
    """`dcd_kernel` if `_is_plain` holds, ``(B, C_out, C_in)``: the same operations without axes of length one."""
    _, weight, scale, fusion, p, q, *_ = factors
    matrix = weight.flatten(1)
    static = matrix if scale is None else matrix * scale[:, :, None]
    residual = torch.matmul(required(p), torch.matmul(required(fusion)[:, 0], required(q).T))
    return static + residual


def _residual(factors: DCDFactors, geometry: Geometry) -> Tensor:
    """Return the dynamic residual, broadcastable to the kernels."""
    batch = required(factors.fusion).shape[0]
    if factors.form == "depthwise":
        return _depthwise_residual(factors).reshape(batch, *factors.weight.shape)
    if factors.form == "joint":
        return _joint_residual(factors, geometry).reshape(batch, *factors.weight.shape)
    return at_centre(_channel_residual(factors, geometry), geometry)


def _depthwise_residual(factors: DCDFactors) -> Tensor:
    p = required(factors.p)
    return p @ required(factors.fusion).to(p.dtype) @ required(factors.r).T


def _channel_residual(factors: DCDFactors, geometry: Geometry) -> Tensor:
    blocks = factors.num_blocks
    p, q = split_rows(required(factors.p), blocks), split_rows(required(factors.q), blocks)
    residual = torch.matmul(p, torch.matmul(required(factors.fusion).to(p.dtype), q.transpose(1, 2)))
    return _place_blocks(residual.unsqueeze(-1), geometry.groups).squeeze(-1)


def _joint_residual(factors: DCDFactors, geometry: Geometry) -> Tensor:
    blocks = factors.num_blocks
    p, q = split_rows(required(factors.p), blocks), split_rows(required(factors.q), blocks)
    with_taps = torch.matmul(required(factors.fusion).to(p.dtype), required(factors.r).T)
    with_rows = torch.einsum("gob,ngabt->ngoat", p, with_taps)
    return _place_blocks(torch.einsum("gia,ngoat->ngoit", q, with_rows), geometry.groups)


def _place_blocks(residual: Tensor, groups: int) -> Tensor:
    """Place ``(B, blocks, C_out / blocks, C_in / blocks, taps)`` as diagonal blocks in the rows of a grouped kernel.

    Returns:
        ``(B, C_out, C_in / groups, taps)``.
    """
    batch, blocks, rows, columns, taps = residual.shape
    per_group = blocks // groups
    if per_group == 1:
        return residual.reshape(batch, blocks * rows, columns, taps)
    eye = torch.eye(per_group, dtype=residual.dtype, device=residual.device)
    split = residual.reshape(batch, groups, per_group, rows, 1, columns, taps)
    placed = split * eye[:, None, :, None, None]
    return placed.reshape(batch, blocks * rows, per_group * columns, taps)
