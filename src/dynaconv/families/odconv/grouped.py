"""ODConv by forming the kernel of each sample and one convolution with the batch folded into groups."""

from torch import Tensor

from dynaconv.families.odconv.attention import ODConvCoefficients
from dynaconv.families.odconv.kernel import odconv_kernel
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.per_sample import grouped_kernel


def grouped_odconv(x: Tensor, attention: ODConvCoefficients, kernels: Tensor, geometry: Geometry) -> Tensor:
    """As `kernel_odconv`, by one convolution with ``B * groups`` groups, whose blocking suits large images.

    During export, and for an empty batch, it runs as `kernel_odconv`: folding would fix the batch size in the graph.
    """
    return grouped_kernel(x, odconv_kernel(attention, kernels, geometry.groups), geometry)
