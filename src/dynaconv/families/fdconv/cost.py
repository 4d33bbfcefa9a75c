"""Forward costs of the algorithms of FDConv. A backward pass is assumed to double all of them."""

import math

from dynaconv.ops.cost import Cost
from dynaconv.ops.geometry import Geometry


def fdconv_costs(geometry: Geometry, input_shape: tuple[int, ...], out_channels: int) -> dict[str, Cost]:
    """Return the costs of ``kernel`` and ``grouped``, without the branch and the bands, which cost the same for both.

    Args:
        geometry: Stride, padding, dilation and groups.
        input_shape: ``(B, C_in, H, W)``.
        out_channels: C_out.
    """
    batch, in_channels = input_shape[:2]
    _, input_pixels, pixels = geometry.pixel_counts(input_shape)
    weights = out_channels * in_channels * geometry.num_taps
    # The gains, two passes of the inverse transform and the gates each read and write the kernel of every sample.
    forming = Cost(dense=batch * transform_macs(weights), moved=10.0 * batch * weights, calls=10)
    product = Cost(batched=pixels * weights, moved=pixels * out_channels, calls=1)
    if geometry.pointwise:
        return {"kernel": forming + product, "grouped": forming + product}
    patches = Cost(moved=2.0 * pixels * in_channels * geometry.num_taps, calls=1)
    # A convolution with several taps reuses the values that it loads, also with one kernel per sample.
    convolution = Cost(dense=pixels * weights, moved=pixels * out_channels, calls=1)
    folded = Cost(moved=2.0 * (input_pixels * in_channels + batch * weights), calls=batch)
    return {"kernel": forming + product + patches, "grouped": forming + convolution + folded}


def transform_macs(size: int) -> float:
    """Return the multiply-adds of a Fourier transform between ``size`` real numbers and their half spectrum."""
    return 1.25 * size * math.log2(max(size, 2))


def band_macs(channels: int, height: int, width: int, bands: int, maps: int, taps: int) -> float:
    """Return the multiply-adds of the band modulation of one sample by Fourier transforms, as papers count them.

    Args:
        channels, height, width: Sizes of the input.
        bands: Number of low-pass filters.
        maps: Number of maps of all bands together.
        taps: Kernel positions of the convolutions that compute the maps.
    """
    size = channels * height * width
    transforms = (bands + 1) * channels * transform_macs(height * width)
    return taps * maps * size + transforms + bands * size
