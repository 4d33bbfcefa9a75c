"""Reference of KernelWarehouse: the kernel of one sample, block by block."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from dynaconv.ops import Geometry, static_conv

EPSILON = 0.001
"""Added to the sum of the logits' magnitudes."""


def reference_attention(logits: Tensor, temperature: float, start: Sequence[int | None]) -> Tensor:
    """Convert the logits of one layer to the weights of the cells.

    Args:
        logits: ``(B, M, n + 1)``; the last column belongs to the null cell.
        temperature: tau, in [0, 1].
        start: The cell from which each of the M blocks starts; None for the null cell.

    Returns:
        ``(B, M, n)``, without the null cell.

    Reference: Li and Yao, ICML 2024, arXiv:2406.07879, the contrasting-driven attention function.
    """
    batch, blocks, columns = logits.shape
    weights = logits.new_zeros(batch, blocks, columns - 1)
    for b, m in product(range(batch), range(blocks)):
        scale = sum(abs(logits[b, m, j]) for j in range(columns)) + EPSILON
        for j in range(columns - 1):
            beta = float(start[m] == j)
            weights[b, m, j] = (1 - temperature) * logits[b, m, j] / scale + temperature * beta
    return weights


def reference_kernel(attention: Tensor, cells: Tensor, shape: Sequence[int]) -> Tensor:
    """Put the kernel of one sample together: block_m = sum_j a_mj E_j.

    Block m = (s g_o + o) g_i + i covers the output channels o c_o to (o + 1) c_o, the input channels i c_i to
    (i + 1) c_i and the tap s, or all taps if the cells have the kernel's size.

    Args:
        attention: Weights of one sample, ``(M, n)``.
        cells: ``(n, c_o, c_i, *taps)``.
        shape: ``(C_out, C_in / groups, *k)``.

    Returns:
        A kernel of this shape.
    """
    out_channels, in_channels, *size = shape
    c_o, c_i, *taps = cells.shape[1:]
    kernel = cells.new_zeros(shape)
    places = list(product(*(range(k // t) for k, t in zip(size, taps, strict=True))))
    for m, (place, o, i) in enumerate(product(places, range(out_channels // c_o), range(in_channels // c_i))):
        window = tuple(slice(p * t, (p + 1) * t) for p, t in zip(place, taps, strict=True))
        for j in range(len(cells)):
            kernel[(slice(o * c_o, (o + 1) * c_o), slice(i * c_i, (i + 1) * c_i), *window)] += (
                attention[m, j] * cells[j]
            )
    return kernel


def reference_kernel_warehouse(x: Tensor, attention: Tensor, cells: Tensor, geometry: Geometry) -> Tensor:
    """Convolve each sample with its own kernel.

    Args:
        x: Input, ``(B, C_in, *sizes)``.
        attention: ``(B, M, n)``.
        cells: ``(n, c_o, c_i, *taps)``.
        geometry: Stride, padding, dilation and groups.

    Returns:
        ``(B, C_out, *out_sizes)``.
    """
    taps, in_channels = geometry.num_taps, x.shape[1] // geometry.groups
    weights = attention.shape[1] * cells[0].numel()
    shape = (weights // taps // in_channels, in_channels, *geometry.kernel_size)
    kernels = [reference_kernel(each, cells, shape) for each in attention]
    return torch.cat([static_conv(x[b : b + 1], kernel, geometry) for b, kernel in enumerate(kernels)])
