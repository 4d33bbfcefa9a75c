"""Dynamic layers. Each answers `kernel(x)`, the kernel it applies to each sample."""

from dynaconv.layers.base import DynamicConv2d, DynamicLayer
from dynaconv.layers.condconv import CondConv2d
from dynaconv.layers.dcd import DCDConv2d, DCDLinear
from dynaconv.layers.dcd_config import DCDConfig
from dynaconv.layers.dcd_core import DCDCoefficients
from dynaconv.layers.dyconv import DYConv2d
from dynaconv.layers.mixture import KernelMixture2d, MixtureCoefficients
from dynaconv.layers.odconv import ODConv2d
from dynaconv.layers.parameters import parameter_groups
from dynaconv.layers.squeeze_excite import SECoefficients, SEConv2d
from dynaconv.layers.temperature import set_temperature
from dynaconv.ops.odconv import ODConvCoefficients

LAYERS: dict[str, type[DynamicConv2d]] = {
    "condconv": CondConv2d,
    "dcd": DCDConv2d,
    "dyconv": DYConv2d,
    "odconv": ODConv2d,
    "squeeze_excite": SEConv2d,
}
"""Every family's convolution under its stem, the name that its files have in ops, layers, tests and docs."""
LINEAR_LAYERS: dict[str, type[DCDLinear]] = {"dcd": DCDLinear}
"""The linear layers of the families that have one."""

__all__ = [
    "LAYERS",
    "LINEAR_LAYERS",
    "CondConv2d",
    "DCDCoefficients",
    "DCDConfig",
    "DCDConv2d",
    "DCDLinear",
    "DYConv2d",
    "DynamicConv2d",
    "DynamicLayer",
    "KernelMixture2d",
    "MixtureCoefficients",
    "ODConv2d",
    "ODConvCoefficients",
    "SECoefficients",
    "SEConv2d",
    "parameter_groups",
    "set_temperature",
]
