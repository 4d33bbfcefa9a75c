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
    transform of length N = P Q over many vectors takes some N (P + Q) multiply-adds for each, not N^2.
    """
    half = columns // 2 + 1
    # Every column but the first and, if their number is even, the last stands for its mirror too.
    weights = [(1 if v == 0 or 2 * v == columns else 2) / (rows * columns) for v in range(half)]
    weight = torch.tensor(weights, dtype=real.dtype, device=real.device)
    real, imaginary = _inverse(real * weight, imaginary * weight, rows, rows, half)
    image, _ = _inverse(real.mT, imaginary.mT, half, columns, rows)
    return image.mT


def _inverse(real: Tensor, imaginary: Tensor, length: int, size: int, vectors: int) -> tuple[Tensor, Tensor]:
    """Return sum_u z[u] exp(2 pi i u m / size) for m < size over axis -2.

    Args:
        real, imaginary: ``(..., length, vectors)``.
        length: Length of the sum, at most ``size``.
        size: Length of the result.
        vectors: Length of axis -1.
    """
    factor = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
    if size <= _MAX_DIRECT or factor == 1:
        return _product(real, imaginary, length, size)
    # u = p + factor * q and m = other * a + b: a product over q, a rotation by p b / size, and a product over p.
    other, quotient = size // factor, -(-length // factor)
    parts = [F.pad(part, (0, 0, 0, quotient * factor - length)) for part in (real, imaginary)]
    real, imaginary = (part.reshape(*part.shape[:-2], quotient, factor, vectors).transpose(-3, -2) for part in parts)
    real, imaginary = _product(real, imaginary, quotient, other)  # (..., factor, other, vectors)
    cos, sin = (table.unsqueeze(-1) for table in phase_tables(range(factor), range(other), size, real))
    real, imaginary = real * cos - imaginary * sin, imaginary * cos + real * sin
    real, imaginary = _product(real.flatten(-2), imaginary.flatten(-2), factor, factor)
    return real.reshape(*real.shape[:-2], size, vectors), imaginary.reshape(*real.shape[:-2], size, vectors)


def _product(real: Tensor, imaginary: Tensor, length: int, size: int) -> tuple[Tensor, Tensor]:
    """`_inverse` by one product."""
    cos, sin = phase_tables(range(size), range(length), size, real)
    both, half = torch.cat((cos, sin)) @ torch.cat((real, imaginary), -1), real.shape[-1]
    rotated, turned = both[..., :size, :], both[..., size:, :]
    return rotated[..., :half] - turned[..., half:], rotated[..., half:] + turned[..., :half]
