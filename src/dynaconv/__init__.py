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
    from dynaconv.conversion import freeze as freeze
    from dynaconv.conversion import load_published as load_published
    from dynaconv.conversion import plan_conversion as plan_conversion
    from dynaconv.conversion import published_layer as published_layer
    from dynaconv.conversion import revert as revert
    from dynaconv.deployment import deploy as deploy
    from dynaconv.deployment import plan_deployment as plan_deployment
    from dynaconv.export import export_onnx as export_onnx
    from dynaconv.export import export_openvino as export_openvino
    from dynaconv.families import CondConv1d as CondConv1d
    from dynaconv.families import CondConv2d as CondConv2d
    from dynaconv.families import CondConv3d as CondConv3d
    from dynaconv.families import CondConvTranspose1d as CondConvTranspose1d
    from dynaconv.families import CondConvTranspose2d as CondConvTranspose2d
    from dynaconv.families import CondConvTranspose3d as CondConvTranspose3d
    from dynaconv.families import DCDConfig as DCDConfig
    from dynaconv.families import DCDConv1d as DCDConv1d
    from dynaconv.families import DCDConv2d as DCDConv2d
    from dynaconv.families import DCDConv3d as DCDConv3d
    from dynaconv.families import DCDConvTranspose1d as DCDConvTranspose1d
    from dynaconv.families import DCDConvTranspose2d as DCDConvTranspose2d
    from dynaconv.families import DCDConvTranspose3d as DCDConvTranspose3d
    from dynaconv.families import DCDLinear as DCDLinear
    from dynaconv.families import DYConv1d as DYConv1d
    from dynaconv.families import DYConv2d as DYConv2d
    from dynaconv.families import DYConv3d as DYConv3d
    from dynaconv.families import DYConvTranspose1d as DYConvTranspose1d
    from dynaconv.families import DYConvTranspose2d as DYConvTranspose2d
    from dynaconv.families import DYConvTranspose3d as DYConvTranspose3d
    from dynaconv.families import DynamicConv as DynamicConv
    from dynaconv.families import DynamicConv2d as DynamicConv2d
    from dynaconv.families import DynamicLayer as DynamicLayer
    from dynaconv.families import Family as Family
    from dynaconv.families import FDConv2d as FDConv2d
    from dynaconv.families import KernelWarehouseConv1d as KernelWarehouseConv1d
    from dynaconv.families import KernelWarehouseConv2d as KernelWarehouseConv2d
    from dynaconv.families import KernelWarehouseConv3d as KernelWarehouseConv3d
    from dynaconv.families import KernelWarehouseLinear as KernelWarehouseLinear
    from dynaconv.families import ODConv1d as ODConv1d
    from dynaconv.families import ODConv2d as ODConv2d
    from dynaconv.families import ODConv3d as ODConv3d
    from dynaconv.families import SEConv1d as SEConv1d
    from dynaconv.families import SEConv2d as SEConv2d
    from dynaconv.families import SEConv3d as SEConv3d
    from dynaconv.families import SharedContext as SharedContext
    from dynaconv.families import Warehouse as Warehouse
    from dynaconv.families import parameter_groups as parameter_groups
    from dynaconv.families import register_family as register_family
    from dynaconv.families import set_temperature as set_temperature
    from dynaconv.families import share_cells as share_cells
    from dynaconv.measure.profile import profile as profile
    from dynaconv.ops import batched_conv as batched_conv
    from dynaconv.ops import batched_conv_transpose as batched_conv_transpose

_NAMES = {
    "dynaconv.measure.profile": ("profile",),
    "dynaconv.conversion": (
        "apply_conversion",
        "conversion_of",
        "convert",
        "freeze",
        "load_published",
        "plan_conversion",
        "published_layer",
        "revert",
    ),
    "dynaconv.deployment": ("deploy", "plan_deployment"),
    "dynaconv.export": ("export_onnx", "export_openvino"),
    "dynaconv.families": (
        "CondConv1d",
        "CondConv2d",
        "CondConv3d",
        "CondConvTranspose1d",
        "CondConvTranspose2d",
        "CondConvTranspose3d",
        "DCDConfig",
        "DCDConv1d",
        "DCDConv2d",
        "DCDConv3d",
        "DCDConvTranspose1d",
        "DCDConvTranspose2d",
        "DCDConvTranspose3d",
        "DCDLinear",
        "DYConv1d",
        "DYConv2d",
        "DYConv3d",
        "DYConvTranspose1d",
        "DYConvTranspose2d",
        "DYConvTranspose3d",
        "DynamicConv",
        "DynamicConv2d",
        "DynamicLayer",
        "FDConv2d",
        "Family",
        "KernelWarehouseConv1d",
        "KernelWarehouseConv2d",
        "KernelWarehouseConv3d",
        "KernelWarehouseLinear",
        "ODConv1d",
        "ODConv2d",
        "ODConv3d",
        "SEConv1d",
        "SEConv2d",
        "SEConv3d",
        "SharedContext",
        "Warehouse",
        "parameter_groups",
        "register_family",
        "set_temperature",
        "share_cells",
    ),
    "dynaconv.ops": ("batched_conv", "batched_conv_transpose"),
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
