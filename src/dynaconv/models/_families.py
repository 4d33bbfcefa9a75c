"""Code that the networks share: checks of options, replacement of convolutions, the stem for small images."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from dynaconv import families
from dynaconv.errors import nearest_names, received, with_article
from dynaconv.families import Family
from dynaconv.families.contract.checks import check_choice
from dynaconv.families.dcd import default_latent_dim
from dynaconv.families.family import Published, families_by_name

STEM_STRIDES = (1, 2, 4)
Layers = Mapping[str, Mapping[str, Any]]
"""Options of each dynamic layer, by its name, in the order of the network's modules."""


STATIC = "static"
"""Family name of the networks without dynamic layers."""
STATIC_TITLE = "ordinary convolutions, the static twin of the dynamic families"


def get_family(name: str) -> Family | None:
    """Return the family with this name; None for "static".

    Raises:
        ValueError: If no family has this name.
    """
    known: dict[str, Family | None] = {STATIC: None, **families_by_name()}
    check_choice("`family`", name, sorted(known))
    return known[name]


def get_published(name: str) -> Published:
    """Return the published version of the family with this name.

    Raises:
        ValueError: If the family has no published version.
    """
    family = get_family(name)
    published = family.published if family is not None else None
    if published is None:
        known = ", ".join(sorted(other.name for other in families.families() if other.published is not None))
        raise ValueError(f"family {name!r} has no published structure; use `published=True` only with {known}.")
    return published


def check_family_options(name: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of `options` after checking that the family's layer has each of them.

    Raises:
        ValueError: If the layer does not have an option.
        TypeError: If `options` is not a mapping.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"`family_options` must map hyperparameter names to values; got {received(options)}.")
    family = get_family(name)
    parameters = {} if family is None else inspect.signature(family.layer).parameters
    known = sorted(key for key, value in parameters.items() if value.kind is inspect.Parameter.KEYWORD_ONLY)
    for key in options:
        if not known:
            raise ValueError(
                f"`family_options` has the key {key!r}, but family {name!r} takes no options; leave it out."
            )
        if key not in known:
            if key in parameters:
                raise ValueError(
                    f"`family_options` has the key {key!r}, which the network sets for each convolution; leave it out."
                )
            raise ValueError(
                f"`family_options` has the key {key!r}, but family {name!r} takes {', '.join(known)}; "
                f"the nearest name is {nearest_names(str(key), known, count=1)[0]!r}."
            )
    return dict(options)


def check_dynamic_kinds(name: str, dynamic: str | Sequence[str], kinds: Sequence[str]) -> frozenset[str]:
    """Return the kinds of layers that `dynamic` names, one or more of `kinds`.

    Raises:
        ValueError: If `dynamic` is empty or names another kind, or if the family has no layer of a kind.
    """
    given = (dynamic,) if isinstance(dynamic, str) else tuple(dynamic)
    for kind in given:
        check_choice("each name in `dynamic`", kind, kinds)
    family = get_family(name)
    if not given or family is None:
        raise ValueError(f"family {name!r} with dynamic={received(given)} has no dynamic layer; leave `dynamic` out.")
    if "classifier" in given and family.linear is None:
        known = ", ".join(sorted(other.name for other in families.families() if other.linear is not None))
        raise ValueError(f"family {name!r} has no dynamic classifier; use dynamic='classifier' only with {known}.")
    return frozenset(given)


def dynamic_classifier(linear: nn.Linear, name: str, options: Mapping[str, Any]) -> nn.Module:
    """Return the family's classifier with the weights of `linear`, and with those of `options` that it has."""
    family = get_family(name)
    assert family is not None
    assert family.linear is not None
    layer = family.linear
    known = inspect.signature(layer).parameters
    fresh = getattr(layer, "fresh_like", layer.like)
    dynamic: nn.Module = fresh(linear, **{key: value for key, value in options.items() if key in known})
    return dynamic


def relative_latent(conv: nn.Conv2d, ratio: float, blocks: int | None) -> int:
    """Return DCD's default L for a convolution times `ratio`, at least 1 and at most the largest L of its blocks.

    Args:
        conv: A convolution that DCD replaces in the channel form.
        ratio: Factor on L, above 0.
        blocks: Number of blocks B; None: the number of groups.
    """
    count = blocks or conv.groups
    default = default_latent_dim(min(conv.in_channels, conv.out_channels) / count)
    return min(max(round(ratio * default), 1), max(conv.in_channels, conv.out_channels) // count)


def check_stem_stride(stem_stride: int) -> None:
    """Raise ValueError unless `stem_stride` is one of `STEM_STRIDES`."""
    if stem_stride not in STEM_STRIDES:
        raise ValueError(
            f"`stem_stride` must be 1, 2 or 4; got {received(stem_stride)}. "
            f"Use 4 for images of about 224 pixels, 2 for 64, 1 or 2 for 28 to 32."
        )


def inner_output_stride(output_stride: int, stem_stride: int) -> int:
    """Convert `output_stride` to the value for timm's builders, which assume a stem of stride 4.

    Raises:
        ValueError: If the network cannot have this `output_stride` with this stem.
    """
    inner = min(32, output_stride * 4 // stem_stride)
    if output_stride not in (2, 4, 8, 16, 32) or inner < 8:
        possible = [stride for stride in (2, 4, 8, 16, 32) if stride * 4 // stem_stride >= 8]
        raise ValueError(
            f"`output_stride` must be one of {possible} with stem_stride={stem_stride}; got {received(output_stride)}."
        )
    return inner


def rescale_reductions(feature_info: Iterable[dict[str, Any]], stem_stride: int) -> None:
    """Correct, in place, the reductions that timm recorded for a stem of stride 4, whose first convolution has 2."""
    for level, info in enumerate(feature_info):
        info["reduction"] = min(2, stem_stride) if level == 0 else info["reduction"] * stem_stride // 4


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether each input channel of a convolution is a group of its own."""
    return conv.groups == conv.in_channels > 1


def suits(family: Family, conv: nn.Conv2d) -> bool:
    """Whether a convolution has a kernel size and a number of channels that the family makes dynamic."""
    sizes = family.kernel_sizes
    fits = sizes is None or set(conv.kernel_size) <= set(sizes)
    return fits and min(conv.in_channels, conv.out_channels) >= family.min_channels


def dynamic_layers(model: nn.Module, selected: Callable[[str, nn.Conv2d], dict[str, Any] | None]) -> Layers:
    """Return the options of each convolution that becomes dynamic.

    Args:
        model: A network.
        selected: Returns the layer's options for the name and module of a convolution; None if it stays static.
    """
    convolutions = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    found = {name: selected(name, conv) for name, conv in convolutions}
    return {name: options for name, options in found.items() if options is not None}


def replace_convolutions(model: nn.Module, family: Family, layers: Layers) -> None:
    """Replace convolutions of `model` in place by the family's layers with the same static weights.

    `DynamicConv.fresh_like` makes the layers and describes the scale of their weights. The dynamic parameters keep
    the layer's initial values.

    Args:
        model: A network whose static weights are initialised.
        family: Family of the dynamic layers.
        layers: The convolutions to replace, and their options.

    Raises:
        ValueError: If a convolution cannot be replaced; the message starts with its name.
    """
    made = []
    for name, options in layers.items():
        conv = model.get_submodule(name)
        if type(conv) is not nn.Conv2d:
            raise ValueError(
                f"{name} is {with_article(type(conv).__name__)}, which has no dynamic form; use pad_type=''."
            )
        try:
            dynamic = family.layer.fresh_like(conv, **options)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, dynamic)
        made.append(dynamic)
    family.join(made)


def published_classifier(linear: nn.Linear, published: Published) -> nn.Module:
    """Return the dynamic classifier of the published networks with the weights of `linear`."""
    options = published.options("classifier", linear.in_features, linear.out_features)
    dynamic: nn.Module = published.classifier.like(linear, **options)
    return dynamic
