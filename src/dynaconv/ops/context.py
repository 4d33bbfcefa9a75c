"""The context of a dynamic branch: the input averaged over all pixels or over each cell of a 2 x 2 grid."""

import torch
from torch import Tensor

from dynaconv.ops.exporting import is_exporting


def pool_context(x: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Average ``x`` over a grid of ``size`` x ``size`` cells, summing in ``dtype``.

    The cells are those of `torch.nn.functional.adaptive_avg_pool2d`: if the height or width is odd, neighbouring cells
    of a 2 x 2 grid share the middle row or column. ``x`` is not copied to a wider dtype.

    Args:
        x: Input, ``(B, C, H, W)``.
        size: Number of cells along each axis, 1 or 2.
        dtype: Dtype of the sums and the result; float32 prevents overflow of half-precision inputs.

    Returns:
        ``(B, C * size**2)``; for ``size=2`` the four cells of a channel are adjacent, in row-major order.
    """
    if size == 1:
        return _mean(x, dtype)
    rows, columns = _halves(x.shape[2]), _halves(x.shape[3])
    cells = [_mean(x[:, :, top:bottom, left:right], dtype) for top, bottom in rows for left, right in columns]
    return torch.stack(cells, dim=2).flatten(1)


def _mean(x: Tensor, dtype: torch.dtype) -> Tensor:
    if not torch.is_grad_enabled() or is_exporting():
        return x.mean((2, 3), dtype=dtype)
    # The gradient of `sum` is a view that takes no memory, and the accumulated gradient of ``x`` keeps the memory
    # format of ``x``. The gradient of `mean` is a new tensor as large as ``x`` that is never channels_last.
    return x.sum((2, 3), dtype=dtype) / (x.shape[2] * x.shape[3])


def _halves(size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, (size + 1) // 2), (size // 2, size)
