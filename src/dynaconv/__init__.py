"""Convolutional networks whose kernels depend on the input.

Importing this package does not import torch. Each name is imported on first use, which requires only torch.
``import dynaconv.models`` registers the networks with timm.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dynaconv._version import __version__ as __version__

if TYPE_CHECKING:
    from dynaconv.conversion import apply_conversion as apply_conversion
    from dynaconv.conversion import conversion_of as conversion_of
    from dynaconv.conversion import convert as convert
    from dynaconv.conversion import load_published as load_published
    from dynaconv.conversion import plan_conversion as plan_conversion
    from dynaconv.conversion import revert as revert
    from dynaconv.deployment import deploy as deploy
    from dynaconv.deployment import plan_deployment as plan_deployment
    from dynaconv.export import export_onnx as export_onnx
    from dynaconv.export import export_openvino as export_openvino
    from dynaconv.families import CondConv2d as CondConv2d
    from dynaconv.families import DCDConfig as DCDConfig
    from dynaconv.families import DCDConv2d as DCDConv2d
    from dynaconv.families import DCDLinear as DCDLinear
    from dynaconv.families import DYConv2d as DYConv2d
    from dynaconv.families import DynamicConv2d as DynamicConv2d
    from dynaconv.families import DynamicLayer as DynamicLayer
    from dynaconv.families import Family as Family
    from dynaconv.families import ODConv2d as ODConv2d
    from dynaconv.families import SEConv2d as SEConv2d
    from dynaconv.families import parameter_groups as parameter_groups
    from dynaconv.families import register_family as register_family
    from dynaconv.families import set_temperature as set_temperature
    from dynaconv.measure.profile import profile as profile

_NAMES = {
    "dynaconv.measure.profile": ("profile",),
    "dynaconv.conversion": (
        "apply_conversion",
        "conversion_of",
        "convert",
        "load_published",
        "plan_conversion",
        "revert",
    ),
    "dynaconv.deployment": ("deploy", "plan_deployment"),
    "dynaconv.export": ("export_onnx", "export_openvino"),
    "dynaconv.families": (
        "CondConv2d",
        "DCDConfig",
        "DCDConv2d",
        "DCDLinear",
        "DYConv2d",
        "DynamicConv2d",
        "DynamicLayer",
        "Family",
        "ODConv2d",
        "SEConv2d",
        "parameter_groups",
        "register_family",
        "set_temperature",
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
