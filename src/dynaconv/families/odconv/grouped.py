"""ODConv by forming the kernel of each sample and one convolution with the batch folded into groups."""

from torch import Tensor

from dynaconv.families.odconv.attention import ODConvCoefficients
from dynaconv.families.odconv.kernel import odconv_kernel
from dynaconv.ops.exporting import is_exporting
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.per_sample import grouped_per_sample, matmul_per_sample


def grouped_odconv(x: Tensor, attention: ODConvCoefficients, kernels: Tensor, geometry: Geometry) -> Tensor:
    """As `kernel_odconv`, by one convolution with ``B * groups`` groups, whose blocking suits large images.

    During export, and for an empty batch, it runs as `kernel_odconv`: folding would fix the batch size in the graph.
    """
    kernel = odconv_kernel(attention, kernels, geometry.groups)
    if is_exporting() or x.shape[0] == 0:
        return matmul_per_sample(x, kernel, geometry)
    return grouped_per_sample(x, kernel, geometry)
