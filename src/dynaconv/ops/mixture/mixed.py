"""Kernel mixture that applies all K kernels and mixes their outputs."""

import math

import torch
from torch import Tensor

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.shared import shared_conv


def mixed_mixture(x: Tensor, attention: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """As `kernel_mixture`, without forming W(x): a shared convolution with K * C_out outputs, then a weighted sum.

    It takes K times the multiply-adds of the static convolution, at the rate of a static convolution.
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
    stacked = outputs.reshape(batch, groups, num_kernels, per_group * math.prod(sizes))
    mixed = torch.matmul(attention.to(outputs.dtype)[:, None, None, :], stacked)
    return mixed.reshape(batch, out_channels, *sizes)
