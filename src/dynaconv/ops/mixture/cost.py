"""What the algorithms of a kernel mixture cost for a shape, forward; a backward pass doubles each alike."""

from dynaconv.ops.cost import Cost, known
from dynaconv.ops.geometry import Geometry

_KEPT = 2**23
"""Numbers in the largest block that an allocator keeps for the next call: 32 MiB of float32 with glibc."""
_FRESH = 4.0
"""Passes that it costs to get a larger block, page by page, from the system; measured between 5 and 7 on one."""


def mixture_costs(
    geometry: Geometry, input_shape: tuple[int, int, int, int], out_channels: int, num_kernels: int
) -> dict[str, Cost]:
    """Cost of ``kernel``, ``mixed`` and ``grouped``, without the branch, which is the same for all.

    Args:
        geometry: Stride, padding, dilation and groups.
        input_shape: ``(B, C_in, H, W)``.
        out_channels: C_out.
        num_kernels: K.
    """
    batch, in_channels, height, width = input_shape
    out_h, out_w = geometry.output_size(height, width)
    pixels, seen = batch * out_h * out_w, batch * height * width
    weights = out_channels * (in_channels // geometry.groups) * geometry.num_taps
    outputs = pixels * out_channels
    forming = Cost(batched=num_kernels * batch * weights, calls=2) + _block(batch * weights, 2)
    product = Cost(batched=pixels * weights, calls=1) + _block(outputs, 1)
    if geometry.pointwise:
        patches, convolution = Cost(), product
    else:
        patches = Cost(calls=1) + _block(pixels * in_channels * geometry.num_taps, 2)
        # With several taps a convolution reuses what it loads, whichever sample it is from.
        convolution = Cost(dense=pixels * weights, calls=1) + _block(outputs, 1)
    if geometry.groups > 1:
        # One small product a sample and group.
        patches += Cost(calls=batch * geometry.groups)
    folded = Cost(calls=batch) + _block(seen * in_channels, 2) + _block(batch * weights, 2)
    stacked = num_kernels * outputs
    shared = Cost(dense=pixels * weights * num_kernels, batched=stacked, calls=3)
    return {
        "kernel": forming + product + patches,
        "mixed": shared + _block(stacked, 2) + _block(outputs, 1),
        "grouped": forming + convolution + folded,
    }


def _block(numbers: int, passes: int) -> Cost:
    """Going over a fresh block of memory a number of times."""
    return Cost(moved=numbers * (passes + (_FRESH if known(numbers > _KEPT) else 0.0)))
