"""The family's layer for a static one: its options, and whether the family supports it."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from dynaconv.conversion.kinds import Static
from dynaconv.families import DynamicLayer, Family
from dynaconv.families.contract.convolution import conv_arguments
from dynaconv.families.contract.linear import DynamicLinear


def layer_options(layer: type[DynamicLayer]) -> list[str]:
    """Return the names of the options of a layer's class."""
    parameters = inspect.signature(layer).parameters
    return [name for name, value in parameters.items() if value.kind is value.KEYWORD_ONLY]


def own_options(layer: type[DynamicLayer], hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of one layer of a network: a linear layer gets those of ``hyperparameters`` that it has.

    A context that is given serves a whole sample, so `DynamicLinear.network_options`, about its own one, are left out.
    """
    if not issubclass(layer, DynamicLinear):
        return dict(hyperparameters)
    known = layer_options(layer)
    given = {name: value for name, value in hyperparameters.items() if name in known}
    return given if given.get("context_features") else {**layer.network_options, **given}


def like_on_meta(family: Family, static: Static, options: Mapping[str, Any]) -> Any:
    """Return the family's layer for a static one, on the meta device."""
    layer = family.layer_for(static)
    sizes = (
        {"in_features": static.in_features, "out_features": static.out_features}
        if isinstance(static, nn.Linear)
        else conv_arguments(static)
    )
    twin = layer.static_class()(**sizes, bias=static.bias is not None, device="meta", dtype=static.weight.dtype)
    return layer.like(twin, **options)


def try_family(family: Family, static: Static, hyperparameters: Mapping[str, Any]) -> tuple[str | None, int, str]:
    """Return why the family does not support a static layer, or None, and its layer's parameter count and note."""
    if not static.weight.dtype.is_floating_point:
        return f"its dtype is {static.weight.dtype}", 0, ""
    try:
        layer = like_on_meta(family, static, own_options(family.layer_for(static), hyperparameters))
    except (ValueError, TypeError) as error:
        return str(error).rstrip("."), 0, ""
    return None, sum(parameter.numel() for parameter in layer.parameters()), layer.conversion_note


def layer_name(family: Family, static: Static) -> str:
    """Return the name of the class of the family's layer."""
    try:
        return family.layer_for(static).__name__
    except TypeError:
        return "dynamic layer"
