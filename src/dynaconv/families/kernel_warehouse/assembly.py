"""Kernels put together from blocks, and cut into them. One rule serves every number of dimensions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dynaconv.ops import full_precision


def assemble(attention: Tensor, cells: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the kernel of each sample: each block is a weighted sum of all cells, in one product for all blocks.

    Args:
        attention: Weights of the cells, ``(B, M, n)``.
        cells: ``(n, c_o, c_i, *taps)``.
        shape: ``(C_out, C_in / groups, *k)``.

    Returns:
        ``(B, *shape)`` in the dtype of ``cells``, also under autocast: the sum costs little compared to a convolution.
    """
    with full_precision(cells.device):
        blocks = torch.matmul(attention.to(cells.dtype).flatten(0, 1), cells.flatten(1))
    return join_blocks(blocks.reshape(*attention.shape[:2], *cells.shape[1:]), shape)


def join_blocks(blocks: Tensor, shape: Sequence[int]) -> Tensor:
    """Join blocks ``(B, M, c_o, c_i, *taps)``, numbered by tap, output block, input block, to ``(B, *shape)``."""
    batch, cell = blocks.shape[0], blocks.shape[2:]
    places, outs, ins = _counts(shape, cell)
    rows = blocks.reshape(batch, *places, outs, ins, *cell)
    dims = len(places)
    # From (B, *places, g_o, g_i, c_o, c_i, *taps) to (B, g_o, c_o, g_i, c_i, place, tap, ...).
    order = [dims + 1, dims + 3, dims + 2, dims + 4]
    order += [axis for dim in range(dims) for axis in (1 + dim, dims + 5 + dim)]
    return rows.permute(0, *order).reshape(batch, *shape)


def cut(kernel: Tensor, cell: Sequence[int]) -> Tensor:
    """Cut a kernel ``(C_out, C_in / groups, *k)`` into blocks ``(M, c_o, c_i, *taps)``; inverse of `join_blocks`."""
    (places, outs, ins), (c_o, c_i, *taps) = _counts(kernel.shape, cell), cell
    split = [size for pair in zip(places, taps, strict=True) for size in pair]
    parts = kernel.reshape(outs, c_o, ins, c_i, *split)
    dims = len(places)
    order = [4 + 2 * dim for dim in range(dims)] + [0, 2, 1, 3] + [5 + 2 * dim for dim in range(dims)]
    return parts.permute(order).reshape(math.prod(places) * outs * ins, *cell)


def _counts(shape: Sequence[int], cell: Sequence[int]) -> tuple[list[int], int, int]:
    """Return the number of blocks along each spatial axis, along the output and along the input channels."""
    out_blocks, in_blocks, *places = (whole // part for whole, part in zip(shape, cell, strict=True))
    return places, out_blocks, in_blocks
