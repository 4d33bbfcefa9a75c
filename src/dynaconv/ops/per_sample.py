"""Convolution of each sample of a batch with its own kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.ops.exporting import is_exporting
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.shared import shared_conv2d


def per_sample_conv2d(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """Convolve sample b of ``x`` with ``kernel[b]``.

    A 1x1 kernel is applied as a batched matrix product. Larger kernels fold the batch into ``groups``. During export,
    and for an empty batch, one product per tap is summed instead, because folding fixes the batch size in the graph.

    Args:
        x: Input, ``(B, C_in, H, W)``.
        kernel: One kernel per sample, ``(B, C_out, C_in / groups, k_h, k_w)``.
        geometry: Stride, padding, dilation and groups.

    Returns:
        ``(B, C_out, H_out, W_out)``.
    """
    if geometry.pointwise:
        return pointwise_per_sample(x, kernel, geometry)
    if is_exporting() or x.shape[0] == 0:
        return taps_per_sample(x, kernel, geometry)
    return grouped_per_sample(x, kernel, geometry)


def matmul_per_sample(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """`per_sample_conv2d` as one matrix product per sample and group, for any kernel size.

    Kernels with several taps multiply unfolded patches or, during export and for an empty batch, one tap after another.
    """
    if geometry.pointwise:
        return pointwise_per_sample(x, kernel, geometry)
    if is_exporting() or x.shape[0] == 0:
        return taps_per_sample(x, kernel, geometry)
    out_h, out_w = geometry.output_size(x.shape[2], x.shape[3])
    kernel_size, stride, padding, dilation, groups = geometry
    patches = F.unfold(x, kernel_size, dilation, padding, stride)  # (B, C_in * k^2, H_out * W_out)
    return grouped_matmul(kernel.flatten(2), patches.reshape(*patches.shape[:2], out_h, out_w), groups)


def pointwise_per_sample(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """`per_sample_conv2d` for a 1x1 kernel: one matrix product per sample and group."""
    if geometry.padding != (0, 0):
        pad_h, pad_w = geometry.padding
        x = F.pad(x, (pad_w, pad_w, pad_h, pad_h))
    if geometry.stride != (1, 1):
        x = x[:, :, :: geometry.stride[0], :: geometry.stride[1]]
    return grouped_matmul(kernel.flatten(2), x, geometry.groups)


def grouped_matmul(matrix: Tensor, x: Tensor, groups: int = 1) -> Tensor:
    """Multiply the channels of each sample by its own matrix, block-diagonal with ``groups`` blocks.

    Args:
        matrix: ``(B, C_out, C_in / groups)``.
        x: ``(B, C_in, H, W)``; with one group, channels_last inputs are multiplied without a copy.
        groups: Number of blocks.

    Returns:
        ``(B, C_out, H, W)``; with one group in the memory format of ``x``.
    """
    batch, out_channels, height, width = x.shape[0], matrix.shape[1], x.shape[2], x.shape[3]
    if groups == 1:
        if is_channels_last(x):
            rows = x.permute(0, 2, 3, 1).flatten(1, 2)
            product = torch.bmm(rows, matrix.transpose(1, 2))
            return product.reshape(batch, height, width, out_channels).permute(0, 3, 1, 2)
        return torch.bmm(matrix, x.flatten(2)).reshape(batch, out_channels, height, width)
    blocks = matrix.reshape(batch, groups, out_channels // groups, matrix.shape[2])
    product = torch.matmul(blocks, x.reshape(batch, groups, x.shape[1] // groups, height * width))
    return product.reshape(batch, out_channels, height, width)


def outer_per_sample(left: Tensor, right: Tensor) -> Tensor:
    """Sum the outer products of two feature maps over pixels: ``(B, M, H, W)``, ``(B, N, H, W)`` to ``(B, M, N)``."""
    if is_channels_last(left) and is_channels_last(right):
        rows, columns = (part.permute(0, 2, 3, 1).flatten(1, 2) for part in (left, right))
        return torch.bmm(rows.transpose(1, 2), columns)
    return torch.bmm(left.flatten(2), right.flatten(2).transpose(1, 2))


def grouped_per_sample(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """`per_sample_conv2d` as one convolution with ``B * groups`` groups."""
    batch = x.shape[0]
    if batch == 1:
        return shared_conv2d(x, kernel[0], geometry)
    # Without the copy, channels_last input gives a view whose batch stride is not the one that torch's convolution
    # expects; its gradients in float64 are then wrong (torch 2.14).
    folded = x.reshape(1, batch * x.shape[1], x.shape[2], x.shape[3]).contiguous()
    groups = batch * geometry.groups
    out = F.conv2d(folded, kernel.flatten(0, 1), None, geometry.stride, geometry.padding, geometry.dilation, groups)
    return out.reshape(batch, kernel.shape[1], out.shape[2], out.shape[3])


def taps_per_sample(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """`per_sample_conv2d` as a sum of one matrix product per tap, which keeps the batch size dynamic."""
    out_h, out_w = geometry.output_size(x.shape[2], x.shape[3])
    (stride_h, stride_w), (dilation_h, dilation_w) = geometry.stride, geometry.dilation
    pad_h, pad_w = geometry.padding
    x = F.pad(x, (pad_w, pad_w, pad_h, pad_h))
    depthwise = kernel.shape[2] == 1 and kernel.shape[1] == x.shape[1]
    total: Tensor | None = None
    for row in range(geometry.kernel_size[0]):
        for column in range(geometry.kernel_size[1]):
            top, left = row * dilation_h, column * dilation_w
            window = x[:, :, top::stride_h, left::stride_w][:, :, :out_h, :out_w]
            tap = kernel[:, :, :, row, column]
            part = window * tap.unsqueeze(3) if depthwise else grouped_matmul(tap, window, geometry.groups)
            total = part if total is None else total + part
    assert total is not None
    return total


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a feature map are adjacent in memory."""
    # Determined by the strides, which vmap supports. False during export, when sizes are symbolic.
    return not is_exporting() and x.stride(1) == 1 and x.stride(3) != 1
