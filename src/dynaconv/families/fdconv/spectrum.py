"""The static kernel of FDConv as the spectrum of one image, and the groups of its frequencies.

The image of a kernel ``(C_out, C_in, k_h, k_w)`` has row ``o * k_h + i`` and column ``c * k_w + j``. Its spectrum is
that of `torch.fft.rfft2`, ``(C_out * k_h, F)`` with ``F = C_in * k_w // 2 + 1``, stored as real and imaginary part.
"""

from functools import lru_cache

import torch
from torch import Tensor

from dynaconv.families.fdconv.products import inverse_products
from dynaconv.ops import is_exporting

Shape = tuple[int, int, int, int]
"""Shape of a static kernel: C_out, C_in, k_h, k_w."""
_MAX_CACHED_GROUPINGS = 32


def image_size(shape: Shape) -> tuple[int, int]:
    """Return rows and columns of the image of a kernel."""
    return shape[0] * shape[2], shape[1] * shape[3]


def kernel_image(kernel: Tensor) -> Tensor:
    """Return the image of a kernel: ``(..., C_out, C_in, k_h, k_w)`` to ``(..., C_out * k_h, C_in * k_w)``."""
    return kernel.transpose(-3, -2).flatten(-4, -3).flatten(-2, -1)


def image_kernel(image: Tensor, shape: Shape) -> Tensor:
    """The inverse of `kernel_image` for a kernel of this shape, as a view."""
    out_channels, in_channels, height, width = shape
    return image.reshape(*image.shape[:-2], out_channels, height, in_channels, width).transpose(-3, -2)


def kernel_spectrum(kernel: Tensor) -> Tensor:
    """Return the spectrum of a kernel's image, ``(..., C_out * k_h, F, 2)``, in the dtype of the kernel."""
    return torch.view_as_real(torch.fft.rfft2(kernel_image(kernel)))


def spectrum_kernel(spectrum: Tensor, shape: Shape) -> Tensor:
    """Return the real kernel of a spectrum, which need not be that of a real image.

    The inverse transform over the rows comes first. The one over the columns then ignores the imaginary parts of column
    0 and, if the image has an even number of columns, of the last column. That uses the Hermitian part of the spectrum,
    as `torch.fft.irfft2` does on a CPU.

    Args:
        spectrum: ``(..., C_out * k_h, F, 2)``.
        shape: C_out, C_in, k_h, k_w.

    Returns:
        ``(..., C_out, C_in, k_h, k_w)``.
    """
    rows, columns = image_size(shape)
    if is_exporting() or spectrum.shape[0] == 0:
        # Runtimes of exported graphs have no usable inverse transform to real numbers, and MKL's takes no empty batch.
        image = inverse_products(spectrum[..., 0], spectrum[..., 1], rows, columns)
    else:
        over_rows = torch.fft.ifft(torch.view_as_complex(spectrum.contiguous()), dim=-2)
        image = torch.fft.irfft(over_rows, n=columns, dim=-1)
    return image_kernel(image, shape)


def num_groups(rows: int, columns: int, wanted: int) -> int:
    """Return the largest number of equal groups, at most ``wanted``, of ``rows * (columns // 2 + 1)`` frequencies."""
    entries = rows * (columns // 2 + 1)
    return next(count for count in range(min(wanted, entries), 0, -1) if entries % count == 0)


def group_dtype(count: int) -> torch.dtype:
    """Return the smallest of uint8, int16 and int32 that holds ``count`` groups."""
    return torch.uint8 if count <= 2**8 else torch.int16 if count <= 2**15 else torch.int32


@lru_cache(_MAX_CACHED_GROUPINGS)
def frequency_groups(rows: int, columns: int, count: int) -> Tensor:
    """Return the group of each frequency, ``(rows, F)``: equal runs of the frequencies sorted by distance from zero.

    Many distances are equal, and the order of `torch.sort` among them decides. It is the published one, on the CPU and
    in float32: another order gives other groups. The distance is rounded as a fused multiply-add rounds it, with which
    `torch.linalg.vector_norm` computes it in the published code.

    Returns:
        Numbers of `group_dtype`, shared between calls; do not change them.
    """
    u = torch.fft.fftfreq(rows, dtype=torch.float32, device="cpu")[:, None]
    v = torch.fft.rfftfreq(columns, dtype=torch.float32, device="cpu")
    squares = (v.double().square() + (u * u).double()).float()
    order = torch.sort(squares.double().sqrt().float().flatten()).indices
    groups = torch.empty(order.shape, dtype=group_dtype(count), device="cpu")
    groups[order] = torch.arange(count, device="cpu").repeat_interleave(len(order) // count).to(groups.dtype)
    return groups.reshape(rows, -1)


class _Spread(torch.autograd.Function):
    """Gives each frequency the gain of its group; the gradient sums each group without atomic or scattered writes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gains: Tensor, groups: Tensor, order: Tensor) -> Tensor:
        return gains.index_select(-1, groups)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        gains, groups, order = inputs
        ctx.save_for_backward(groups, order)
        ctx.save_for_forward(groups, order)
        ctx.count = gains.shape[-1]

    @staticmethod
    def jvp(ctx, gains: Tensor, *_: None) -> Tensor:  # type: ignore[no-untyped-def]
        spread: Tensor = _Spread.apply(gains, *ctx.saved_tensors)
        return spread

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        groups, order = ctx.saved_tensors
        collected: Tensor = _Collect.apply(gradient, groups, order, ctx.count)
        return collected, None, None


class _Collect(torch.autograd.Function):
    """The transpose of `_Spread`: sums the values of each group of frequencies."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, groups: Tensor, order: Tensor, count: int) -> Tensor:
        return values.index_select(-1, order).reshape(*values.shape[:-1], count, len(order) // count).sum(-1)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(inputs[1], inputs[2])
        ctx.save_for_forward(inputs[1], inputs[2])
        ctx.count = inputs[3]

    @staticmethod
    def jvp(ctx, values: Tensor, *_: None) -> Tensor:  # type: ignore[no-untyped-def]
        collected: Tensor = _Collect.apply(values, *ctx.saved_tensors, ctx.count)
        return collected

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        groups, order = ctx.saved_tensors
        return _Spread.apply(gradient, groups, order), None, None, None


def spread_gains(gains: Tensor, groups: Tensor, order: Tensor) -> Tensor:
    """Return the gain of each frequency: ``(..., K)`` to ``(..., rows, F)``.

    Args:
        gains: Gain of each group.
        groups: Group of each frequency, ``(rows, F)``, of any integer type.
        order: The frequencies sorted by group, ``(rows * F,)`` int32.
    """
    flat = groups.flatten().int()
    # Graphs take the plain gather: torch.compile (torch 2.14) traces no function with forward-mode derivatives.
    plain = is_exporting() or torch.compiler.is_compiling()
    each = gains.index_select(-1, flat) if plain else _Spread.apply(gains, flat, order)
    spread: Tensor = each.reshape(*gains.shape[:-1], *groups.shape)
    return spread
