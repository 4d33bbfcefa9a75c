"""Kernel mixture that forms each sample's kernel and runs one convolution with the batch folded into groups."""

from torch import Tensor

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.mixture.kernel import mix_kernels
from dynaconv.ops.per_sample import grouped_kernel


def grouped_mixture(x: Tensor, attention: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """As `kernel_mixture`, by one convolution with ``B * groups`` groups, whose blocking suits large images.

    During export, and for an empty batch, it runs as `kernel_mixture`: folding would fix the batch size in the graph.
    """
    return grouped_kernel(x, mix_kernels(attention, kernels), geometry)
