"""Convolutional networks whose kernels depend on the input.

Importing this package needs torch alone. With timm installed its models are registered there as soon as timm is
imported, in either order.
"""

from dynaconv._timm_hook import install as _install_timm_hook
from dynaconv.analysis.profile import profile
from dynaconv.convert import convert, deploy, load_published, plan_conversion, revert
from dynaconv.export import export_onnx, export_openvino
from dynaconv.layers import (
    CondConv2d,
    DCDConfig,
    DCDConv2d,
    DCDLinear,
    DYConv2d,
    DynamicConv2d,
    ODConv2d,
    SEConv2d,
    parameter_groups,
    set_temperature,
)

__version__ = "0.1.0"

__all__ = [
    "CondConv2d",
    "DCDConfig",
    "DCDConv2d",
    "DCDLinear",
    "DYConv2d",
    "DynamicConv2d",
    "ODConv2d",
    "SEConv2d",
    "convert",
    "deploy",
    "export_onnx",
    "export_openvino",
    "load_published",
    "parameter_groups",
    "plan_conversion",
    "profile",
    "revert",
    "set_temperature",
]

_install_timm_hook()
