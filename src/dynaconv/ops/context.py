"""The context of a dynamic branch: the input, averaged over one cell or over a 2 x 2 grid of cells."""

import torch
from torch import Tensor

from dynaconv.ops.exporting import is_exporting


def pool_context(x: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Average ``x`` over a grid of ``size`` x ``size`` cells, summing in ``dtype``.

    Cells are those of `torch.nn.functional.adaptive_avg_pool2d`: on odd heights or widths the two cells of a 2 x 2
    grid share the middle row or column. No wider copy of ``x`` is made.

    Args:
        x: Input, ``(B, C, H, W)``.
        size: Cells along each axis, 1 or 2.
        dtype: Type of the sums and of the result; float32 keeps half-precision inputs from overflowing.

    Returns:
        ``(B, C * size**2)``; for ``size=2`` each channel's four cells stand together, row by row.
    """
    if size == 1:
        return _mean(x, dtype)
    rows, columns = _halves(x.shape[2]), _halves(x.shape[3])
    cells = [_mean(x[:, :, top:bottom, left:right], dtype) for top, bottom in rows for left, right in columns]
    return torch.stack(cells, dim=2).flatten(1)


def _mean(x: Tensor, dtype: torch.dtype) -> Tensor:
    if not torch.is_grad_enabled() or is_exporting():
        return x.mean((2, 3), dtype=dtype)
    # The gradient of a sum is a view that takes no memory and leaves the sum of the gradients of ``x`` in the memory
    # format of ``x``. That of `mean` is a block as large as ``x``, never in channels_last.
    return x.sum((2, 3), dtype=dtype) / (x.shape[2] * x.shape[3])


def _halves(size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, (size + 1) // 2), (size // 2, size)
