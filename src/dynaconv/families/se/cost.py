"""Forward costs of the two algorithms of a convolution with squeeze-and-excitation."""

from dynaconv.ops.cost import Cost
from dynaconv.ops.geometry import Geometry


def squeeze_excite_costs(geometry: Geometry, input_shape: tuple[int, ...], out_channels: int) -> dict[str, Cost]:
    """Return the costs of ``kernel`` and ``factored``, without the branch, which costs the same for both.

    Both run the convolution and average its output, because the scales depend on it.

    Args:
        geometry: Stride, padding, dilation and groups.
        input_shape: ``(B, C_in, *sizes)``.
        out_channels: C_out.
    """
    batch, in_channels = input_shape[:2]
    _, input_pixels, pixels = geometry.pixel_counts(input_shape)
    weights = out_channels * (in_channels // geometry.groups) * geometry.num_taps
    scales = Cost(dense=pixels * weights, moved=pixels * out_channels, calls=2)
    scaling = Cost(moved=2.0 * pixels * out_channels, calls=1)
    # The products per sample pass over the output once more, as scaling does. They were faster for no tested shape.
    kernel = scaling + Cost(batched=pixels * weights, moved=2.0 * batch * weights, calls=1)
    if not geometry.pointwise:
        # The batch is folded into groups: B small convolutions, each with its own packed weights.
        kernel += Cost(moved=2.0 * (input_pixels * in_channels + batch * weights), calls=batch)
    return {"kernel": scales + kernel, "factored": scales + scaling}
