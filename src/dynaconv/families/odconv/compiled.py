"""ODConv in training by compiled operators."""

from torch import Tensor

from dynaconv.families.odconv.attention import ODConvCoefficients
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.mixture import Attentions, compiled_mixture


def compiled_odconv(x: Tensor, attention: ODConvCoefficients, kernels: Tensor, geometry: Geometry) -> Tensor:
    """As `kernel_odconv` if `supports_compiled` holds; W(x) exists for one sample at a time."""
    kernel, spatial = attention.kernel, attention.spatial
    return compiled_mixture(
        x,
        Attentions(
            kernel=x.new_ones(len(x), 1) if kernel is None else kernel,
            channel=attention.channel,
            spatial=None if spatial is None else spatial.flatten(1),
            filter=attention.filter,
        ),
        kernels,
        geometry,
    )
