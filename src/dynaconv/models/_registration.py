"""Registers one network in every family, and in the published structure where a family has one, with timm."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model
from torch import nn

from dynaconv.models._families import FAMILIES

Create = Callable[..., nn.Module]
"""``(variant, pretrained, **arguments)`` to a network."""


def register_names(
    module: str, network: str, sizes: Mapping[str, Mapping[str, Any]], create: Create, config: Mapping[str, Any]
) -> None:
    """Register ``{family}_{network}{size}`` for each family and size, and put the entry points into the module.

    Args:
        module: Name of the module whose networks they are; it gets `default_cfgs` and one function for each name.
        network: Middle part of the names.
        sizes: Last part of the names to the arguments that make a network of that size.
        create: Builds a network.
        config: The entries of timm's pretrained configuration that differ between networks.
    """
    arguments: dict[str, dict[str, Any]] = {}
    docs: dict[str, str] = {}
    for key, family in FAMILIES.items():
        for size, given in sizes.items():
            name = f"{key}_{network}{size}"
            arguments[name] = {**given, "family": key}
            docs[name] = f"{network}{size} with {family.title}."
            if family.published is not None:
                arguments[f"{name}_published"] = {**given, "family": key, "published": True}
                docs[f"{name}_published"] = f"{network}{size} with {family.title}: the published code's structure."
    namespace = sys.modules[module]
    namespace.default_cfgs = generate_default_cfgs(  # type: ignore[attr-defined]
        {name: _default_config(config) for name in arguments}
    )
    for name in arguments:
        setattr(namespace, name, register_model(_entry_point(module, name, docs[name], create, arguments[name])))


def _default_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "license": "apache-2.0",
        **config,
    }


def _entry_point(module: str, name: str, doc: str, create: Create, arguments: Mapping[str, Any]) -> Create:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        # A width between the named ones, as a comparison at equal parameters needs.
        fixed = {key: value for key, value in arguments.items() if key != "width" or key not in kwargs}
        return create(name, pretrained, **fixed, **kwargs)

    build.__name__ = build.__qualname__ = name
    build.__module__ = module
    build.__doc__ = doc
    return build
