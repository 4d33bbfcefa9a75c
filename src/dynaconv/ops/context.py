"""The context of a dynamic branch: the input averaged over all pixels or over each cell of a grid."""

import itertools
import math

import torch
from torch import Tensor

from dynaconv.ops.exporting import is_exporting


def pool_context(x: Tensor, size: int, dtype: torch.dtype, mask: Tensor | None = None) -> Tensor:
    """Average ``x`` over a grid of ``size`` cells along each spatial axis, summing in ``dtype``.

    The cells are those of `torch.nn.functional.adaptive_avg_pool2d`: if an axis has odd length, neighbouring cells of a
    grid of two share its middle. ``x`` is not copied to a wider dtype.

    Args:
        x: Input, ``(B, C, *sizes)``.
        size: Number of cells along each axis, 1 or 2.
        dtype: Dtype of the sums and the result; float32 prevents overflow of half-precision inputs.
        mask: Positions that count, bool, ``(B, 1, *sizes)``, only for a ``size`` of 1; None: all.

    Returns:
        ``(B, C * size**dims)``; for ``size=2`` the cells of a channel are adjacent, in row-major order.
    """
    if mask is not None:
        assert size == 1
        return _masked_mean(x, mask, dtype)
    if size == 1:
        return _mean(x, dtype)
    grid = itertools.product(*map(_halves, x.shape[2:]))
    cells = [_mean(x[:, :, *(slice(*side) for side in sides)], dtype) for sides in grid]
    return torch.stack(cells, dim=2).flatten(1)


def pool_other_axes(x: Tensor, axis: int, length: int, dtype: torch.dtype, mask: Tensor | None = None) -> Tensor:
    """Average ``x`` over all spatial axes but one, and resize that to the length of an output.

    Each position of the output gets the average of those that it covers, as in adaptive average pooling.

    Args:
        x: Input, ``(B, C, *sizes)``.
        axis: The axis that stays, -1 or -2.
        length: S, its length after resizing.
        dtype: Dtype of the sums and the result.
        mask: Positions that count, bool, ``(B, 1, *sizes)``; None: all.

    Returns:
        ``(B, S, C)``.
    """
    others = tuple(other for other in range(2, x.dim()) if other != x.dim() + axis)
    if not others:
        pooled = (x if mask is None else x.masked_fill(~mask, 0)).to(dtype)
    elif mask is None:
        pooled = x.mean(others, dtype=dtype)
    else:
        total = x.masked_fill(~mask, 0).sum(others, dtype=dtype)
        pooled = total / mask.sum(others, dtype=dtype).clamp(min=1)
    own = pooled.shape[2]
    if own != length:
        numbers = torch.arange(length, device=x.device)[:, None]
        first, end = numbers * own // length, ((numbers + 1) * own + length - 1) // length
        positions = torch.arange(own, device=x.device)
        covered = (positions >= first) & (positions < end)
        pooled = torch.matmul(pooled, (covered.to(dtype) / (end - first)).T)
    return pooled.transpose(1, 2)


def _mean(x: Tensor, dtype: torch.dtype) -> Tensor:
    axes = tuple(range(2, x.dim()))
    if not torch.is_grad_enabled() or is_exporting():
        return x.mean(axes, dtype=dtype)
    # The gradient of `sum` is a view that takes no memory, and the accumulated gradient of ``x`` keeps the memory
    # format of ``x``. The gradient of `mean` is a new tensor as large as ``x`` that is never channels_last.
    return x.sum(axes, dtype=dtype) / math.prod(x.shape[2:])


def _masked_mean(x: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Average the positions that the mask keeps; zero for a sample without any. Other positions may be infinite."""
    axes = tuple(range(2, x.dim()))
    total = x.masked_fill(~mask, 0).sum(axes, dtype=dtype)
    return total / mask.sum(axes, dtype=dtype).clamp(min=1)


def _halves(size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, (size + 1) // 2), (size // 2, size)
