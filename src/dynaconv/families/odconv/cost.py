"""Forward costs of the algorithms of ODConv. A backward pass is assumed to double all of them."""

from dynaconv.ops.cost import Cost
from dynaconv.ops.geometry import Geometry


def odconv_costs(
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
    _, input_pixels, pixels = geometry.pixel_counts(input_shape)
    weights = out_channels * (in_channels // geometry.groups) * geometry.num_taps
    several_taps, several_kernels = not geometry.pointwise, num_kernels > 1
    # Each scaling reads and writes the kernel of every sample.
    forming = Cost(moved=2.0 * batch * weights * (1 + several_taps), calls=2 + several_taps)
    if several_kernels:
        forming += Cost(batched=batch * num_kernels * weights, moved=2.0 * batch * weights, calls=1)
    product = Cost(batched=pixels * weights, moved=pixels * out_channels, calls=1)
    copied = pixels * in_channels * geometry.num_taps
    patches = Cost(moved=2.0 * copied, calls=1) if several_taps else Cost()
    blocks = Cost(calls=batch * geometry.groups) if geometry.groups > 1 else Cost()
    folded = Cost(moved=2.0 * (input_pixels * in_channels + batch * weights), calls=batch)
    outputs = pixels * out_channels
    mixed = Cost(dense=pixels * weights * num_kernels, moved=2.0 * outputs, calls=3)
    mixed += patches + Cost(moved=2.0 * (copied if several_taps else input_pixels * in_channels), calls=1)
    if several_kernels:
        mixed += Cost(batched=outputs * num_kernels, moved=2.0 * outputs * num_kernels, calls=2)
    return {
        "kernel": forming + product + patches + blocks,
        "mixed": mixed,
        "grouped": forming + product + folded,
    }
