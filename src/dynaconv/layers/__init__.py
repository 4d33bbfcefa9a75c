"""Dynamic layers. Each answers `kernel(x)`, the kernel it applies to each sample."""

from dynaconv.layers.base import DynamicConv2d
from dynaconv.layers.dcd import DCDConv2d, DCDLinear
from dynaconv.layers.dcd_config import DCDConfig
from dynaconv.layers.dcd_core import DCDCoefficients

__all__ = ["DCDCoefficients", "DCDConfig", "DCDConv2d", "DCDLinear", "DynamicConv2d"]
