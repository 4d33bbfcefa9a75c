"""What the networks share: the table of families, the swap of convolutions, the stem for small images."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from dynaconv.errors import nearest_names
from dynaconv.layers import CondConv2d, DCDConv2d, DCDLinear, DYConv2d, DynamicConv2d, ODConv2d, SEConv2d
from dynaconv.layers.published import published_dcd_options
from dynaconv.ops.dcd import default_latent_dim

STEM_STRIDES = (1, 2, 4)
ConvOptions = Callable[[nn.Conv2d], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Published:
    """The published code's version of a family.

    Attributes:
        options: ``(style, in_channels, out_channels, *, fc_squeeze)`` to the layer's keyword options.
        classifier: Layer that takes the place of the linear classifier.
    """

    options: Callable[..., dict[str, Any]]
    classifier: type[DCDLinear]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a network of one family is built.

    The defaults make the convolutions dynamic that the family's own paper does, as far as its counts tell;
    docs/paper-tables.md puts the counts side by side.

    Attributes:
        title: Name for docstrings.
        layer: Layer that takes the place of a convolution; None leaves the network static.
        dynamic_depthwise: Whether depthwise convolutions are replaced when the user does not say.
        dynamic_head: Whether the 1x1 convolution behind MobileNetV2's blocks is replaced.
        ends_only: Whether, of the convolutions in a block, only the last one is replaced.
        published: The published code's version, where there is one.
        linear: Layer that takes the place of the classifier where it is asked to be dynamic, where there is one.
    """

    title: str
    layer: type[DynamicConv2d] | None
    dynamic_depthwise: bool = False
    dynamic_head: bool = True
    ends_only: bool = False
    published: Published | None = None
    linear: type[DCDLinear] | None = None


FAMILIES: dict[str, Family] = {
    "dcd": Family(
        title="dynamic convolution decomposition (DCD)",
        layer=DCDConv2d,
        published=Published(options=published_dcd_options, classifier=DCDLinear),
        linear=DCDLinear,
    ),
    "condconv": Family(
        title="conditionally parameterised convolution (CondConv)", layer=CondConv2d, dynamic_depthwise=True
    ),
    "dyconv": Family(
        title="attention over kernels (DY-Conv)", layer=DYConv2d, dynamic_depthwise=True, dynamic_head=False
    ),
    "odconv": Family(title="omni-dimensional dynamic convolution (ODConv)", layer=ODConv2d, dynamic_depthwise=True),
    "se": Family(title="squeeze-and-excitation (SE)", layer=SEConv2d, dynamic_head=False, ends_only=True),
    "static": Family(title="ordinary convolutions, the static twin of the dynamic families", layer=None),
}


def get_family(name: str) -> Family:
    """The family called `name`.

    Raises:
        ValueError: If there is none.
    """
    if name not in FAMILIES:
        near = nearest_names(str(name), FAMILIES, count=1)[0]
        raise ValueError(
            f"`family` is one of {', '.join(sorted(FAMILIES))}; got {name!r}, and the nearest name is {near!r}."
        )
    return FAMILIES[name]


def get_published(name: str) -> Published:
    """The published version of the family called `name`.

    Raises:
        ValueError: If the family has no published version.
    """
    published = get_family(name).published
    if published is None:
        known = ", ".join(sorted(key for key, family in FAMILIES.items() if family.published is not None))
        raise ValueError(f"family {name!r} has no published structure; `published=True` goes with {known}.")
    return published


def check_family_options(name: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of `options`, each key of which the family's layer knows.

    Raises:
        ValueError: If the layer has no hyperparameter of that name.
        TypeError: If `options` is not a mapping.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"`family_options` maps hyperparameter names to values; got {options!r}.")
    layer = get_family(name).layer
    parameters = {} if layer is None else inspect.signature(layer).parameters
    known = sorted(key for key, value in parameters.items() if value.kind is inspect.Parameter.KEYWORD_ONLY)
    for key in options:
        if not known:
            raise ValueError(f"`family_options` has the key {key!r}, but family {name!r} takes none; leave it.")
        if key not in known:
            raise ValueError(
                f"`family_options` has the key {key!r}, but family {name!r} takes {', '.join(known)}; "
                f"the nearest name is {nearest_names(str(key), known, count=1)[0]!r}."
            )
    return dict(options)


def check_dynamic_kinds(name: str, dynamic: str | Sequence[str], kinds: Sequence[str]) -> frozenset[str]:
    """The kinds of layers that `dynamic` names, one or several of `kinds`.

    Raises:
        ValueError: If it names none or another, or the family has no layer of that kind.
    """
    given = (dynamic,) if isinstance(dynamic, str) else tuple(dynamic)
    for kind in given:
        if kind not in kinds:
            raise ValueError(f"`dynamic` names one or several of {', '.join(kinds)}; got {kind!r}.")
    family = get_family(name)
    if not given or family.layer is None:
        raise ValueError(f"family {name!r} with dynamic={given!r} has no dynamic layer; leave `dynamic`.")
    if "classifier" in given and family.linear is None:
        known = ", ".join(sorted(key for key, other in FAMILIES.items() if other.linear is not None))
        raise ValueError(f"family {name!r} has no dynamic classifier; dynamic='classifier' goes with {known}.")
    return frozenset(given)


def dynamic_classifier(linear: nn.Linear, name: str, options: Mapping[str, Any]) -> nn.Module:
    """The family's classifier, starting from the weights of `linear`, with those of the options that it has."""
    layer = get_family(name).linear
    assert layer is not None
    known = inspect.signature(layer).parameters
    return layer.like(linear, **{key: value for key, value in options.items() if key in known})


def relative_latent(conv: nn.Conv2d, ratio: float, blocks: int | None) -> int:
    """DCD's default L for a convolution times `ratio`, at least 1 and at most what its blocks can hold.

    Args:
        conv: A convolution in the channel form.
        ratio: Above 0.
        blocks: B; None for as many as groups.
    """
    count = blocks or conv.groups
    default = default_latent_dim(min(conv.in_channels, conv.out_channels) / count)
    return min(max(round(ratio * default), 1), max(conv.in_channels, conv.out_channels) // count)


def check_stem_stride(stem_stride: int) -> None:
    """Raises ValueError unless `stem_stride` is one of `STEM_STRIDES`."""
    if stem_stride not in STEM_STRIDES:
        raise ValueError(
            f"`stem_stride` is 1, 2 or 4; got {stem_stride!r}. "
            f"Take 4 for images of about 224 pixels, 2 for 64, 1 or 2 for 28 to 32."
        )


def inner_output_stride(output_stride: int, stem_stride: int) -> int:
    """The `output_stride` that timm's builders, which count a stem of stride 4, need for the one asked for.

    Raises:
        ValueError: If it cannot be had with this stem.
    """
    inner = min(32, output_stride * 4 // stem_stride)
    if output_stride not in (2, 4, 8, 16, 32) or inner < 8:
        possible = [stride for stride in (2, 4, 8, 16, 32) if stride * 4 // stem_stride >= 8]
        raise ValueError(f"`output_stride` is one of {possible} with stem_stride={stem_stride}; got {output_stride!r}.")
    return inner


def rescale_reductions(feature_info: Iterable[dict[str, Any]], stem_stride: int) -> None:
    """Correct, in place, the reductions that timm wrote down for a stem of stride 4 (its first convolution has 2)."""
    for level, info in enumerate(feature_info):
        info["reduction"] = min(2, stem_stride) if level == 0 else info["reduction"] * stem_stride // 4


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether each channel is convolved by itself."""
    return conv.groups == conv.in_channels > 1


def replace_convolutions(
    model: nn.Module, layer: type[DynamicConv2d], eligible: Callable[[str, nn.Conv2d], bool], options: ConvOptions
) -> None:
    """Replace, in place, every `nn.Conv2d` of `model` that is `eligible` by a `layer` with the same static weights.

    See `DynamicConv2d.fresh_like` for how large they are. The layer's dynamic parameters keep the initial values that
    the layer gives them.

    Args:
        model: A network whose static weights are initialised.
        layer: Dynamic layer.
        eligible: Says of a convolution, by name and module, whether it is replaced.
        options: Gives a convolution's hyperparameters.

    Raises:
        ValueError: If a convolution cannot take the place of the layer; the message starts with its name.
    """
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and eligible(n, m)]
    for name, conv in found:
        if type(conv) is not nn.Conv2d:
            raise ValueError(f"{name} is a {type(conv).__name__}; use pad_type='' to have dynamic convolutions there.")
        try:
            dynamic = layer.fresh_like(conv, **options(conv))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, dynamic)


def published_classifier(linear: nn.Linear, published: Published) -> nn.Module:
    """The dynamic classifier of the published networks, starting from the weights of `linear`."""
    return published.classifier.like(linear, **published.options("classifier", linear.in_features, linear.out_features))
