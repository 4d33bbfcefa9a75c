"""Creates networks by name, with errors that tell the user what to change."""

import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from dynaconv.conversion import apply_conversion
from dynaconv.errors import RunError, listed, nearest_names

_DYNAMIC_ONLY = ("family_options", "dynamic", "dynamic_depthwise", "dynamic_downsample", "latent_ratio", "fc_squeeze")
"""Options that only dynamic networks have."""


def is_own_model(name: str) -> bool:
    """Return whether a timm name is that of one of dynaconv's models."""
    import timm

    import dynaconv.models  # noqa: F401  # registers the names

    stem = name.split(".", 1)[0]
    return timm.is_model(stem) and timm.model_entrypoint(stem).__module__.startswith("dynaconv.")


def static_twin(name: str) -> str | None:
    """Return the name of the static network of the same structure; None for static or other libraries' networks."""
    from dynaconv.families import families
    from dynaconv.models import STATIC

    if not is_own_model(name) or name.startswith(f"{STATIC}_"):
        return None
    family = max((each.name for each in families() if name.startswith(f"{each.name}_")), key=len)
    return f"{STATIC}_{name.removeprefix(f'{family}_').removesuffix('_published')}"


def static_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of one of dynaconv's networks that its static twin has too."""
    return {key: value for key, value in options.items() if key not in _DYNAMIC_ONLY}


def check_model_name(name: str) -> None:
    """Raise RunError unless timm has a model of that name and, if the name ends in a tag, weights of that tag."""
    import timm

    import dynaconv.models  # noqa: F401  # registers the names

    stem, _, tag = name.partition(".")
    if not timm.is_model(stem):
        raise RunError(
            f"unknown model {name!r}; the nearest names are {listed(nearest_names(name, timm.list_models()))}."
        )
    known = [each.partition(".")[2] for each in timm.list_models(f"{stem}.*", pretrained=True)] if tag else []
    if tag and tag not in known:
        choice = f"its weights are {listed(known)}" if known else "there are no weights of this model"
        raise RunError(f"timm has no weights {tag!r} of {stem}; {choice}.")


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
        num_classes: Number of classes.
        in_channels: Number of channels of the images.
        options: Further arguments of the model.
        conversion: Conversion to apply, as `dynaconv.conversion.conversion_of` returns it.

    Raises:
        RunError: The name or its tag is unknown, the model does not take these options, or its weights cannot be
            downloaded.
        ConversionError: The conversion does not fit this model.
    """
    import timm

    check_model_name(name)
    given = dict(options or {})
    if reserved := sorted({"num_classes", "in_chans"} & given.keys()):
        raise RunError(f"model_options cannot set {listed(reserved)}; the data set does.")
    try:
        model: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **given)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        hint = ""
        if "unexpected keyword argument" in str(error) and is_own_model(name):
            hint = f"; hyperparameters of its dynamic layers go into {json.dumps({'family_options': {}})}"
        if given.get("pretrained") and is_own_model(name):
            hint = "; `dynaconv convert` makes a static network of timm dynamic with its pretrained weights"
        raise RunError(
            f"cannot build {name} with model_options={given}: {' '.join(str(error).split()).rstrip('.')}{hint}."
        ) from error
    except OSError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise RunError(f"cannot load timm's weights of {name}; start from a file of weights. {reason}.") from error
    return apply_conversion(model, conversion) if conversion else model
