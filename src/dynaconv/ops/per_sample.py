"""Convolution of each sample of a batch with its own kernel, in any dimension."""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.ops.cost import Cost, cheapest, statically_true
from dynaconv.ops.exporting import is_exporting
from dynaconv.ops.geometry import Geometry, over_pixels
from dynaconv.ops.shared import static_conv


def reference_per_sample_conv(x: Tensor, kernel: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Convolve sample b of ``x`` with ``kernel[b]``, one convolution of `torch.nn.functional` per sample.

    Args:
        x: Input, ``(B, C_in, *sizes)``, B >= 1.
        kernel: One kernel per sample, ``(B, C_out, C_in / groups, *k)``, also for a transposed convolution.
        geometry: Stride, padding, dilation and groups.
        bias: ``(B, C_out)`` or None.

    Returns:
        ``(B, C_out, *out_sizes)``.
    """
    biases = [None] * x.shape[0] if bias is None else bias
    parts = zip(x.unsqueeze(1), kernel, biases, strict=True)
    return torch.cat([static_conv(sample, each, geometry, own) for sample, each, own in parts])


def per_sample_conv(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """As `reference_per_sample_conv`, by the algorithm that `per_sample_costs` finds cheapest.

    ``matmul`` is one matrix product per sample and group. ``grouped`` is one convolution with the batch folded into
    ``groups``, or for a transposed convolution one per sample. During export, and for an empty batch, ``taps`` sums one
    product per tap instead, because folding fixes the batch size in the graph; an export with
    a batch size of one has an ordinary convolution with a computed weight. All of them have second derivatives and
    work under `torch.vmap` and torch.compile.
    """
    if _is_exported_sample(x):
        return static_conv(x, kernel.flatten(0, 1), geometry)
    if _is_product(geometry):
        return pointwise_per_sample(x, kernel, geometry)
    if is_exporting() or x.shape[0] == 0:
        return taps_per_sample(x, kernel, geometry)
    shape, out_channels = tuple(x.shape), kernel.shape[1]
    # The sizes of tensor subclasses may be symbolic.
    choose = _choose if torch.compiler.is_compiling() or type(x) is not Tensor else _choose_once
    grouped = choose(geometry, shape, out_channels) == "grouped"
    return (grouped_per_sample if grouped else matmul_per_sample)(x, kernel, geometry)


def per_sample_costs(geometry: Geometry, input_shape: tuple[int, ...], out_channels: int) -> dict[str, Cost]:
    """Return the costs of ``matmul`` and ``grouped``; `benchmarks/batched_conv.py` checks the choices.

    Args:
        geometry: Stride, padding, dilation and groups.
        input_shape: ``(B, C_in, *sizes)``.
        out_channels: C_out.
    """
    batch, in_channels = input_shape[:2]
    applied, input_pixels, pixels = geometry.pixel_counts(input_shape)
    weights = out_channels * (in_channels // geometry.groups) * geometry.num_taps
    columns = out_channels if geometry.transposed else in_channels
    product = Cost(batched=applied * weights, moved=pixels * out_channels, calls=1)
    patches = Cost(moved=2.0 * applied * columns * geometry.num_taps, calls=1)
    # One small product per sample and group.
    blocks = Cost(calls=batch * geometry.groups) if geometry.groups > 1 else Cost()
    # A convolution with several taps reuses the values that it loads, also with one kernel per sample.
    convolution = Cost(dense=applied * weights, moved=pixels * out_channels, calls=1)
    folded = Cost(moved=2.0 * (input_pixels * in_channels + batch * weights), calls=batch)
    return {"matmul": product + patches + blocks, "grouped": convolution + folded}


def _choose(geometry: Geometry, shape: tuple[int, ...], out_channels: int) -> str:
    return cheapest(per_sample_costs(geometry, shape, out_channels), undecided="matmul")


_choose_once = functools.lru_cache(maxsize=1024)(_choose)


def _is_product(geometry: Geometry) -> bool:
    """Whether the convolution is a matrix product on a subset of the input's pixels."""
    return geometry.pointwise and not geometry.transposed


def matmul_per_sample(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """`per_sample_conv` as one matrix product per sample and group, for any kernel size.

    Kernels with several taps multiply unfolded patches; those of a transposed convolution give the patches of the
    output, which are added up. During export and for an empty batch one tap is multiplied after another.
    """
    if _is_exported_sample(x):
        return static_conv(x, kernel.flatten(0, 1), geometry)
    if _is_product(geometry):
        return pointwise_per_sample(x, kernel, geometry)
    if is_exporting() or x.shape[0] == 0:
        return taps_per_sample(x, kernel, geometry)
    if geometry.transposed:
        return fold_patches(_output_patches(x, kernel, geometry.groups), geometry, x.shape[2:])
    patches = unfold_patches(x, geometry)
    return grouped_matmul(kernel.flatten(2), patches, geometry.groups)


def unfold_patches(x: Tensor, geometry: Geometry) -> Tensor:
    """Return the patches of a convolution, ``(B, C_in * num_taps, *out_sizes)``, with adjacent taps of a channel."""
    kernel_size, stride, padding, dilation, *_ = geometry
    if geometry.dims == 2:
        patches = F.unfold(x, kernel_size, dilation, padding, stride)  # (B, C_in * k^2, H_out * W_out)
        return patches.reshape(*patches.shape[:2], *geometry.output_size(*x.shape[2:]))
    x = pad_pixels(x, padding, padding)
    axes = tuple(range(2, 2 + geometry.dims))
    for axis, size, step, spacing in zip(axes, kernel_size, stride, dilation, strict=True):
        x = x.unfold(axis, spacing * (size - 1) + 1, step)[..., ::spacing]
    taps = tuple(axis + geometry.dims for axis in axes)
    return x.permute(0, 1, *taps, *axes).flatten(1, 1 + geometry.dims)


def fold_patches(patches: Tensor, geometry: Geometry, sizes: torch.Size) -> Tensor:
    """Add up the patches of a transposed convolution.

    Args:
        patches: ``(B, C_out * num_taps, *sizes)``, with adjacent taps of a channel.
        geometry: Stride, padding, dilation and output padding.
        sizes: Spatial sizes of the input.

    Returns:
        ``(B, C_out, *out_sizes)``.
    """
    dims = geometry.dims
    if dims > 2 or is_exporting():
        taps = geometry.num_taps
        split = patches.reshape(patches.shape[0], patches.shape[1] // taps, taps, *sizes)
        parts = (place_tap(split[:, :, number], geometry, tap) for number, tap in enumerate(geometry.taps))
        return functools.reduce(torch.add, parts)
    kernel_size, stride, padding, dilation, _, output_padding = geometry
    assert output_padding is not None
    # Without padding, which crops the output; the output padding shows columns that it has cropped.
    full = geometry._replace(padding=(0,) * dims, output_padding=(0,) * dims).output_size(*sizes)
    one = (1,) * (2 - dims)
    out_size, kernel, spacing, step = ((*one, *each) for each in (full, kernel_size, dilation, stride))
    out = F.fold(patches.flatten(2), out_size, kernel, spacing, 0, step)
    out = out.reshape(*out.shape[:2], *full)
    return pad_pixels(out, [-p for p in padding], [o - p for p, o in zip(padding, output_padding, strict=True)])


def place_tap(values: Tensor, geometry: Geometry, tap: tuple[int, ...]) -> Tensor:
    """Place the products of one tap of a transposed convolution, ``(B, C, *sizes)``, on its output's pixels."""
    before, after = [], []
    sizes = values.shape[2:]
    for axis, (size, out) in enumerate(zip(sizes, geometry.output_size(*sizes), strict=True)):
        step = geometry.stride[axis]
        if step > 1:
            # Insert zeros after each value of this axis.
            behind = (0, 0) * (geometry.dims - axis - 1)
            values = F.pad(values.unsqueeze(axis + 3), (*behind, 0, step - 1)).flatten(axis + 2, axis + 3)
        before.append(geometry.dilation[axis] * tap[axis] - geometry.padding[axis])
        after.append(out - before[-1] - size * step)
    return pad_pixels(values, before, after)


def pad_pixels(x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Add zeros before and after each spatial axis, or crop where a number is negative."""
    sides = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
    return F.pad(x, sides) if sides != [0] * len(sides) else x


def pointwise_per_sample(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """`per_sample_conv` for a single tap: one matrix product per sample and group."""
    x = pad_pixels(x, geometry.padding, geometry.padding)
    if set(geometry.stride) != {1}:
        x = x[:, :, *(slice(None, None, step) for step in geometry.stride)]
    return grouped_matmul(kernel.flatten(2), x, geometry.groups)


def grouped_matmul(matrix: Tensor, x: Tensor, groups: int = 1) -> Tensor:
    """Multiply the channels of each sample by its own matrix, block-diagonal with ``groups`` blocks.

    Args:
        matrix: ``(B, C_out, C_in / groups)``.
        x: ``(B, C_in, *sizes)``; with one group, channels_last inputs are multiplied without a copy.
        groups: Number of blocks.

    Returns:
        ``(B, C_out, *sizes)``; with one group in the memory format of ``x``.
    """
    batch, out_channels, sizes = x.shape[0], matrix.shape[1], x.shape[2:]
    if groups == 1:
        if is_channels_last(x):
            rows = x.movedim(1, -1).flatten(1, -2)
            product = torch.bmm(rows, matrix.transpose(1, 2))
            return product.reshape(batch, *sizes, out_channels).movedim(-1, 1)
        return torch.bmm(matrix, x.flatten(2)).reshape(batch, out_channels, *sizes)
    blocks = matrix.reshape(batch, groups, out_channels // groups, matrix.shape[2])
    product = torch.matmul(blocks, x.reshape(batch, groups, x.shape[1] // groups, math.prod(sizes)))
    return product.reshape(batch, out_channels, *sizes)


def outer_per_sample(left: Tensor, right: Tensor) -> Tensor:
    """Sum outer products over pixels: ``(B, M, *sizes)``, ``(B, N, *sizes)`` to ``(B, M, N)``."""
    if is_channels_last(left) and is_channels_last(right):
        rows, columns = (part.movedim(1, -1).flatten(1, -2) for part in (left, right))
        return torch.bmm(rows.transpose(1, 2), columns)
    return torch.bmm(left.flatten(2), right.flatten(2).transpose(1, 2))


def times_transposed(kernel: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of ``grouped_matmul(kernel, x)`` with respect to ``x``, for one group.

    It is a new tensor, to which autograd can add another one in place.
    """
    # Allocated dense, because the strides of `x` may not allow a view as a matrix.
    if is_channels_last(x):
        to_x = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        rows = to_x.permute(0, 2, 3, 1).view(len(x), -1, x.shape[1])
        torch.bmm(gradient.permute(0, 2, 3, 1).flatten(1, 2), kernel, out=rows)
    else:
        to_x = x.new_empty(x.shape)
        torch.bmm(kernel.transpose(1, 2), gradient.flatten(2), out=to_x.view(*x.shape[:2], -1))
    return to_x


def grouped_per_sample(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """`per_sample_conv` as one convolution with ``B * groups`` groups.

    Outside torch.compile, a transposed convolution runs as one convolution per sample, because torch 2.14 is slower
    with groups (`benchmarks/batched_conv.py`).
    """
    batch = x.shape[0]
    if batch == 1:
        return static_conv(x, kernel[0], geometry)
    if geometry.transposed and not torch.compiler.is_compiling():
        return reference_per_sample_conv(x, kernel, geometry)
    # Without the copy, channels_last input gives a view whose batch stride is not the one that torch's convolution
    # expects; its gradients in float64 are then wrong (torch 2.14).
    folded = x.reshape(1, batch * x.shape[1], *x.shape[2:]).contiguous()
    out = static_conv(folded, kernel.flatten(0, 1), geometry._replace(groups=batch * geometry.groups))
    return out.reshape(batch, kernel.shape[1], *out.shape[2:])


def taps_per_sample(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """`per_sample_conv` as a sum of one matrix product per tap, which keeps the batch size dynamic."""
    dims, depthwise = geometry.dims, kernel.shape[2] == 1 and kernel.shape[1] == x.shape[1]
    if geometry.transposed and not depthwise:
        return fold_patches(_output_patches(x, kernel, geometry.groups), geometry, x.shape[2:])
    out_sizes = geometry.output_size(*x.shape[2:])
    if not geometry.transposed:
        x = pad_pixels(x, geometry.padding, geometry.padding)
    total: Tensor | None = None
    for number, position in enumerate(geometry.taps):
        tap, read = kernel.flatten(3)[..., number], x
        if not geometry.transposed:
            starts = zip(position, geometry.dilation, geometry.stride, strict=True)
            read = x[:, :, *(slice(at * spacing, None, step) for at, spacing, step in starts)]
            read = read[:, :, *(slice(size) for size in out_sizes)]
        part = read * over_pixels(tap.squeeze(2), dims) if depthwise else grouped_matmul(tap, read, geometry.groups)
        part = place_tap(part, geometry, position) if geometry.transposed else part
        total = part if total is None else total + part
    assert total is not None
    return total


def _output_patches(x: Tensor, kernel: Tensor, groups: int) -> Tensor:
    """Return the product of each tap with each pixel, ``(B, C_out * num_taps, *sizes)``, with adjacent taps."""
    matrix = kernel.flatten(3).transpose(2, 3).flatten(1, 2)  # (B, C_out * num_taps, C_in / groups)
    return grouped_matmul(matrix, x, groups)


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a feature map are adjacent in memory."""
    # Determined by the strides, which vmap supports. False during export, when sizes are symbolic.
    return not is_exporting() and x.stride(1) == 1 and x.stride(-1) != 1


def grouped_kernel(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """Convolve each sample with its kernel by one convolution with ``B * groups`` groups.

    During export, and for an empty batch, it runs as `matmul_per_sample`, because folding fixes the batch size.
    """
    if is_exporting() or x.shape[0] == 0:
        return matmul_per_sample(x, kernel, geometry)
    return grouped_per_sample(x, kernel, geometry)


def _is_exported_sample(x: Tensor) -> bool:
    """Whether the code runs during export with a batch size that is fixed to one."""
    return is_exporting() and statically_true(x.shape[0] == 1)
