"""DCD by forming the kernel of each sample and convolving with it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.families.dcd.factors import DCDFactors, required, split_rows
from dynaconv.families.dcd.kernel_step import kernel_step_dcd
from dynaconv.families.dcd.step import supports_step
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.per_sample import per_sample_conv2d
from dynaconv.ops.precision import autocasts


def kernel_dcd(x: Tensor, factors: DCDFactors, geometry: Geometry) -> Tensor:
    """As `reference_dcd`, with all kernels formed at once: B * C_in * C_out * k^2 elements, no extra work per pixel."""
    if geometry == Geometry((1, 1)) and supports_step(x, factors, geometry):
        return kernel_step_dcd(x, factors)
    return per_sample_conv2d(x, dcd_kernel(factors, geometry, x.shape[0]), geometry)


def dcd_kernel(factors: DCDFactors, geometry: Geometry, batch: int) -> Tensor:
    """Return W(x) of each sample, as `reference_dcd_kernel` defines it.

    Args:
        factors: The factors of W(x).
        geometry: Kernel size and groups.
        batch: B.

    Returns:
        ``(B, C_out, C_in / groups, k_h, k_w)`` in the dtype of W0.
    """
    if _is_plain(factors, geometry):
        return _plain_kernel(factors)
    kernel = factors.weight.expand(batch, -1, -1, -1, -1)
    if factors.scale is not None:
        kernel = kernel * factors.scale[:, :, None, None, None]
    if factors.fusion is not None:
        kernel = kernel + _residual(factors, geometry)
    return kernel.to(factors.weight.dtype)


def _is_plain(factors: DCDFactors, geometry: Geometry) -> bool:
    """Whether this is a 1x1 kernel with a residual of one block, all of one dtype."""
    fusion, weight = factors.fusion, factors.weight
    return (
        fusion is not None
        and factors.form == "channel"
        and geometry.kernel_size == (1, 1)
        and fusion.shape[1] == 1
        and fusion.dtype == weight.dtype
        and not autocasts(weight.device)
    )


def _plain_kernel(factors: DCDFactors) -> Tensor:
    """`dcd_kernel` if `_is_plain` holds: the same operations without axes of length one."""
    _, weight, scale, fusion, p, q, _ = factors
    matrix = weight.flatten(1)
    static = matrix if scale is None else matrix * scale[:, :, None]
    residual = torch.matmul(required(p), torch.matmul(required(fusion)[:, 0], required(q).T))
    return (static + residual)[..., None, None]


def _residual(factors: DCDFactors, geometry: Geometry) -> Tensor:
    """Return the dynamic residual, broadcastable to the kernels."""
    batch = required(factors.fusion).shape[0]
    if factors.form == "depthwise":
        return _depthwise_residual(factors).reshape(batch, *factors.weight.shape)
    if factors.form == "joint":
        return _joint_residual(factors, geometry).reshape(batch, *factors.weight.shape)
    residual = _channel_residual(factors, geometry)[..., None, None]
    if geometry.pointwise:
        return residual
    (row, column), (height, width) = geometry.centre, geometry.kernel_size
    return F.pad(residual, (column, width - 1 - column, row, height - 1 - row))


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
