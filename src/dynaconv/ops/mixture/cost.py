"""Forward costs of the algorithms of a kernel mixture. A backward pass is assumed to double all of them."""

from dynaconv.ops.cost import Cost, statically_true
from dynaconv.ops.geometry import Geometry

_MAX_CACHED_BLOCK = 2**23
"""Elements of the largest memory block that the allocator reuses for the next call: 32 MiB of float32 with glibc."""
_PAGE_FAULT_PASSES = 4.0
"""Cost of the page faults of a larger block, in passes over it; `benchmarks/algorithms.py` checks the choices."""


def mixture_costs(
    geometry: Geometry, input_shape: tuple[int, ...], out_channels: int, num_kernels: int
) -> dict[str, Cost]:
    """Return the costs of ``kernel``, ``mixed`` and ``grouped``, without the branch, which costs the same for all.

    Args:
        geometry: Stride, padding, dilation and groups.
        input_shape: ``(B, C_in, *sizes)``.
        out_channels: C_out.
        num_kernels: K.
    """
    batch, in_channels = input_shape[:2]
    applied, input_pixels, pixels = geometry.pixel_counts(input_shape)
    columns = out_channels if geometry.transposed else in_channels
    weights = out_channels * (in_channels // geometry.groups) * geometry.num_taps
    outputs = pixels * out_channels
    forming = Cost(batched=num_kernels * batch * weights, calls=2) + _block(batch * weights, 2)
    product = Cost(batched=applied * weights, calls=1) + _block(outputs, 1)
    if geometry.pointwise:
        patches, convolution = Cost(), product
    else:
        patches = Cost(calls=1) + _block(applied * columns * geometry.num_taps, 2)
        # A convolution with several taps reuses the values that it loads, also with one kernel per sample.
        convolution = Cost(dense=applied * weights, calls=1) + _block(outputs, 1)
    if geometry.groups > 1:
        # One small product per sample and group.
        patches += Cost(calls=batch * geometry.groups)
    folded = Cost(calls=batch) + _block(input_pixels * in_channels, 2) + _block(batch * weights, 2)
    stacked = num_kernels * outputs
    shared = Cost(dense=applied * weights * num_kernels, batched=stacked, calls=3)
    return {
        "kernel": forming + product + patches,
        "mixed": shared + _block(stacked, 2) + _block(outputs, 1),
        "grouped": forming + convolution + folded,
    }


def _block(numbers: int, passes: int) -> Cost:
    """Return the cost of a number of passes over a newly allocated block."""
    return Cost(
        moved=numbers * (passes + (_PAGE_FAULT_PASSES if statically_true(numbers > _MAX_CACHED_BLOCK) else 0.0))
    )
