"""What the algorithms of a kernel mixture cost for a shape, forward; a backward pass doubles each alike."""

from dynaconv.ops.common.cost import Cost
from dynaconv.ops.common.geometry import Geometry


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
    forming = Cost(batched=batch * num_kernels * weights, moved=2.0 * batch * weights, calls=2)
    product = Cost(batched=pixels * weights, moved=pixels * out_channels, calls=1)
    patches = Cost() if geometry.pointwise else Cost(moved=2.0 * pixels * in_channels * geometry.num_taps, calls=1)
    if geometry.groups > 1:
        # One small product a sample and group.
        patches += Cost(calls=batch * geometry.groups)
    folded = Cost(moved=2.0 * (seen * in_channels + batch * weights), calls=batch)
    outputs = pixels * out_channels * num_kernels
    return {
        "kernel": forming + product + patches,
        "mixed": Cost(dense=pixels * weights * num_kernels, batched=outputs, moved=2.0 * outputs, calls=3),
        "grouped": forming + product + folded,
    }
