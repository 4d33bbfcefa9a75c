"""Build a network by name, with the errors a user can act on."""

import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from dynaconv.conversion import apply_conversion
from dynaconv.errors import RunError, listed, nearest_names


def is_own_model(name: str) -> bool:
    """Whether a timm name is one of dynaconv's."""
    import timm

    import dynaconv.models  # noqa: F401  # registers the names

    stem = name.split(".", 1)[0]
    return timm.is_model(stem) and timm.model_entrypoint(stem).__module__.startswith("dynaconv.")


def create_network(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    options: Mapping[str, Any] | None = None,
    conversion: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Create a timm model, one of dynaconv's or any other.

    Args:
        name: A name that `timm.list_models` knows.
        num_classes: Outputs of the classifier.
        in_channels: Channels of the input images.
        options: Further arguments of the model.
        conversion: What `dynaconv.conversion.conversion_of` says of the network that is wanted.

    Raises:
        RunError: The name is unknown, or the model does not take these options.
        ConversionError: The conversion is not one of this model.
    """
    import timm

    import dynaconv.models  # noqa: F401  # registers the names

    if not timm.is_model(name.split(".", 1)[0]):
        near = nearest_names(name, timm.list_models())
        raise RunError(f"unknown model {name!r}; the nearest names are {listed(near)}.")
    given = dict(options or {})
    if taken := sorted({"num_classes", "in_chans"} & given.keys()):
        raise RunError(f"model_options cannot set {listed(taken)}; the data decide.")
    try:
        model: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **given)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        hint = ""
        if "unexpected keyword argument" in str(error) and is_own_model(name):
            hint = f"; hyperparameters of its dynamic layers go into {json.dumps({'family_options': {}})}"
        raise RunError(
            f"cannot build {name} with model_options={given}: {' '.join(str(error).split()).rstrip('.')}{hint}."
        ) from error
    return apply_conversion(model, conversion) if conversion else model
