"""Registration of networks with timm, in every family and, if a family has one, in the published structure."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model
from torch import nn

from dynaconv.families.family import Family, on_registered
from dynaconv.models._families import STATIC, STATIC_TITLE

Create = Callable[..., nn.Module]
"""Builds a network from ``(variant, pretrained, **arguments)``."""
_PUBLISHED = ": the published code's structure"


def register_names(
    module: str, network: str, sizes: Mapping[str, Mapping[str, Any]], create: Create, config: Mapping[str, Any]
) -> None:
    """Register ``{family}_{network}{size}`` for each family and size, and add the entry points to the module.

    The names of a family that is registered later are added when it is registered.

    Args:
        module: Name of the networks' module, to which `default_cfgs` and one function for each name are added.
        network: Middle part of the names.
        sizes: Maps the last part of a name to the network's arguments for that size.
        create: Builds a network.
        config: The entries of timm's pretrained configuration that differ between networks.
    """
    namespace = sys.modules[module]
    namespace.default_cfgs = {}  # type: ignore[attr-defined]

    def register(key: str, title: str, *, published: bool = False) -> None:
        for size, size_arguments in sizes.items():
            for ending in ("", "_published") if published else ("",):
                name = f"{key}_{network}{size}{ending}"
                description = f"{network}{size} with {title}{_PUBLISHED if ending else ''}."
                arguments = {**size_arguments, "family": key, **({"published": True} if ending else {})}
                namespace.default_cfgs.update(generate_default_cfgs({name: _default_config(config)}))
                setattr(namespace, name, register_model(_entry_point(module, name, description, create, arguments)))

    def of_family(family: Family) -> None:
        register(family.name, family.title, published=family.published is not None)

    on_registered(of_family)
    register(STATIC, STATIC_TITLE)


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
        # The caller may set another `width`, as comparisons at equal parameter counts do.
        fixed = {key: value for key, value in arguments.items() if key != "width" or key not in kwargs}
        return create(name, pretrained, **fixed, **kwargs)

    build.__name__ = build.__qualname__ = name
    build.__module__ = module
    build.__doc__ = doc
    return build
