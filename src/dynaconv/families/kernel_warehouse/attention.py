"""The weights of the cells, and their computation from logits."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dynaconv.families.kernel_warehouse.reference import EPSILON


class KernelWarehouseCoefficients(NamedTuple):
    """Coefficients of a KernelWarehouse layer."""

    attention: Tensor
    """Weight of each of the n cells in each of the M blocks, ``(B, M, n)``, in float32 (float64 for float64 inputs).
    Weights may be negative; the magnitudes of a block's weights sum to less than 1 at temperature 0."""


def warehouse_attention(logits: Tensor, start: Callable[[], Tensor], temperature: Tensor | float) -> Tensor:
    """Convert logits to weights: (1 - tau) t / (sum |t| + 0.001) + tau beta, without the column of the null cell.

    Args:
        logits: t, ``(B, M, n + 1)``; the last column belongs to the null cell.
        start: Returns beta, ``(M, n)``: true for the cell from which a block starts. Not called if the temperature is
            the number 0.
        temperature: tau, in [0, 1].

    Returns:
        ``(B, M, n)``.
    """
    weights = logits[..., :-1] / (logits.abs().sum(-1, keepdim=True) + EPSILON)
    if isinstance(temperature, float) and temperature == 0:
        return weights
    if isinstance(temperature, Tensor):
        temperature = temperature.to(weights.dtype)
    return weights + temperature * (start().to(weights.dtype) - weights)


def start_table(cells: Tensor, num_cells: int) -> Tensor:
    """Return beta, ``(M, n)``, for the cell from which each block starts, ``(M,)``; n means the null cell."""
    return cells[:, None] == torch.arange(num_cells, device=cells.device)


def join_columns(own: Tensor, foreign: Tensor, first: int) -> Tensor:
    """Return the logits of all columns in the variant with a basis: the foreign cells stand around the own ones.

    Args:
        own: Logits of the layer's L own cells, then of the null cell, ``(B, M, L + 1)``.
        foreign: Logits of the other cells, ``(B, M, n - L)``.
        first: Number of the first own cell.

    Returns:
        ``(B, M, n + 1)``.
    """
    return torch.cat((foreign[..., :first], own[..., :-1], foreign[..., first:], own[..., -1:]), -1)
