"""Inverse discrete Fourier transforms as real matrix products, for graphs of runtimes without complex numbers."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.ops import is_exporting

_MAX_DIRECT = 64
"""Largest transform in one product; a longer one takes two, over two factors of its length."""


def phase_tables(left: Sequence[int], right: Sequence[int], size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin of 2 pi l r / size, a row for each l, in the dtype and on the device of ``like``.

    In a graph, runtimes compute the tables once, when they load it.
    """
    rows, columns = (_indices(each, like.device) for each in (left, right))
    steps = torch.remainder(rows[:, None] * columns, size)
    if is_exporting():
        angle = steps.to(like.dtype) * (2 * math.pi / size)
        return torch.cos(angle), torch.sin(angle)
    angle = steps.double() * (2 * math.pi / size)
    return torch.cos(angle).to(like.dtype), torch.sin(angle).to(like.dtype)


def _indices(values: Sequence[int], device: torch.device) -> Tensor:
    if isinstance(values, range):
        return torch.arange(len(values), device=device)
    return torch.tensor(values, dtype=torch.int64, device=device)


def inverse_products(real: Tensor, imaginary: Tensor, rows: int, columns: int) -> Tensor:
    """Inverse transform of the half spectrum of a real image: ``(..., rows, F)`` twice to ``(..., rows, columns)``.

    As `torch.fft.irfft2` by matrix products, complex over the rows, then from complex to real over the columns. A
    transform of length N = P Q over many vectors takes some N (P + Q) multiply-adds for each, not N^2. Real and
    imaginary parts are one tensor, and factors of single frequencies are part of the matrices: the products are almost
    the only passes over the numbers.
    """
    half = columns // 2 + 1
    # Every column but the first and, if their number is even, the last stands for its mirror too.
    weights = [(1 if v == 0 or 2 * v == columns else 2) / (rows * columns) for v in range(half)]
    both = _inverse(torch.stack((real, imaginary), -3), [1.0] * rows, rows)
    return _inverse(both.mT, weights, columns, real_only=True).squeeze(-3).mT


def _inverse(z: Tensor, weights: Sequence[float], size: int, *, real_only: bool = False) -> Tensor:
    """Return sum_u weights[u] z[u] exp(2 pi i u m / size) for m < size over axis -2.

    Args:
        z: Real and imaginary parts, ``(..., 2, length, vectors)``.
        weights: One for each u.
        size: Length of the result, at least that of the sum.
        real_only: Whether to return the real part alone, ``(..., 1, size, vectors)``.
    """
    length, vectors, count = *z.shape[-2:], 1 if real_only else 2
    factor = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
    if size <= _MAX_DIRECT:
        factor = 1
    # u = p + factor * q and m = other * a + b: for each p a product over q, which includes the rotation by p b / size,
    # and a product over p.
    other, quotient = size // factor, -(-length // factor)
    padding = quotient * factor - length
    weight = torch.tensor([*weights, *[0.0] * padding], dtype=z.dtype, device=z.device)
    tables = phase_tables(range(other), range(quotient * factor), size, z)
    cos, sin = ((table * weight).reshape(other, quotient, factor).permute(2, 0, 1) for table in tables)
    parts = F.pad(z, (0, 0, 0, padding)).reshape(*z.shape[:-2], quotient, factor, vectors)
    parts = parts.movedim(-2, -4).flatten(-3, -2)  # (..., factor, 2 quotient, vectors)
    upper = torch.cat((cos, -sin), -1)
    if factor == 1:
        matrix = upper if real_only else torch.cat((upper, torch.cat((sin, cos), -1)), -2)
        return (matrix[0] @ parts.squeeze(-3)).reshape(*z.shape[:-3], count, size, vectors)
    parts = torch.cat((upper, torch.cat((sin, cos), -1)), -2) @ parts  # (..., factor, 2 other, vectors)
    parts = parts.reshape(*z.shape[:-3], 2 * factor, other * vectors)
    cos, sin = phase_tables(range(factor), range(factor), factor, z)
    matrix = torch.stack((cos, -sin), -1).flatten(1)
    if not real_only:
        matrix = torch.cat((matrix, torch.stack((sin, cos), -1).flatten(1)))
    return (matrix @ parts).reshape(*z.shape[:-3], count, size, vectors)
