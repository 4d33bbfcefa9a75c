"""Kernel mixture that applies all K kernels and mixes their outputs."""

import math

import torch
from torch import Tensor

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.shared import shared_conv


def mixed_mixture(x: Tensor, attention: Tensor, kernels: Tensor, geometry: Geometry, axis: int | None = None) -> Tensor:
    """As `kernel_mixture`, without forming W(x): a shared convolution with K * C_out outputs, then a weighted sum.

    It takes K times the multiply-adds of the static convolution, at the rate of a static convolution. With an ``axis``,
    -1 or -2, the weights differ along this axis of the output, ``(B, S, K)``.
    """
    num_kernels, out_channels = kernels.shape[:2]
    groups = geometry.groups
    batch, per_group = x.shape[0], out_channels // groups
    # The output channels of a group are adjacent, so the weight holds all K kernels of the first group, then those of
    # the next.
    by_group = kernels.reshape(num_kernels, groups, per_group, *kernels.shape[2:]).transpose(0, 1)
    weight = by_group.reshape(num_kernels * out_channels, *kernels.shape[2:])
    outputs = shared_conv(x, weight, geometry)
    sizes = outputs.shape[2:]
    if axis is not None:
        weights = along_axis(attention.to(outputs.dtype), axis, geometry.dims)  # (B, K, *sizes)
        each = outputs.reshape(batch, groups, num_kernels, per_group, *sizes) * weights[:, None, :, None]
        return each.sum(2).reshape(batch, out_channels, *sizes)
    stacked = outputs.reshape(batch, groups, num_kernels, per_group * math.prod(sizes))
    mixed = torch.matmul(attention.to(outputs.dtype)[:, None, None, :], stacked)
    return mixed.reshape(batch, out_channels, *sizes)


def along_axis(values: Tensor, axis: int, dims: int) -> Tensor:
    """Return values of each position along an axis, ``(B, S, N)``, as ``(B, N, 1, ..., S, ..., 1)``."""
    sizes = [1] * dims
    sizes[axis] = values.shape[1]
    return values.transpose(1, 2).reshape(values.shape[0], values.shape[2], *sizes)
