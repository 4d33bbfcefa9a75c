"""A family of dynamic layers is one object, and registering it is the only edit outside its folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Literal

from torch import nn

from dynaconv.errors import nearest_names
from dynaconv.families.contract.base import DynamicConv2d, DynamicLayer

Kind = Literal["pointwise", "depthwise", "grouped", "spatial"]
Role = Literal["mixing", "gate", "matrix"]
ENTRY_POINTS = "dynaconv.families"
"""Entry-point group in which other packages name their `Family` objects."""


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """One part of what a layer's ``coefficients(x)`` gives, for tables and figures.

    Attributes:
        symbol: How it is written, such as "Λ"; more than one letter names what an attention is over.
        role: "mixing" weights K kernels, "gate" multiplies elements of the kernel, "matrix" mixes latent channels.
        act: What it does, after its symbol: "scales each output channel".
        element: What one element of a vector stands for.
        limit: Upper end of a gate's range, which starts at 0; a function of the layer where its options say; None for a
            gate without one.
    """

    symbol: str
    role: Role
    act: str = ""
    element: str = "output channel"
    limit: float | Callable[[Any], float | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """The published code's version of a family's networks.

    Attributes:
        options: ``(style, in_channels, out_channels, *, fc_squeeze)`` to the layer's keyword options.
        classifier: Layer that takes the place of the linear classifier.
    """

    options: Callable[..., dict[str, Any]]
    classifier: type[Any]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of dynamic layers, and all that the rest of the library knows of it.

    The defaults for networks make those convolutions dynamic that the family's own paper does, as far as its counts
    tell; docs/paper-tables.md puts the counts side by side.

    Attributes:
        name: Of folder, records and registered networks, such as "dcd".
        title: In words.
        arxiv: Number of the paper.
        citation: BibTeX of the paper.
        layer: Convolution.
        linear: Linear layer, where there is one.
        coefficients: By the names of the ``coefficients`` tuple.
        kinds: Convolutions that `convert` takes when the user does not say.
        aliases: Further names that are understood in arguments.
        dynamic_head: Whether the registered MobileNetV2 has a dynamic 1x1 convolution behind its blocks.
        ends_only: Whether, of the convolutions in a block, only the last one is dynamic in the registered networks.
        published: The published code's networks, where they differ.
    """

    name: str
    title: str
    arxiv: str
    citation: str
    layer: type[DynamicConv2d]
    linear: type[Any] | None = None
    coefficients: Mapping[str, Coefficient] = field(default_factory=dict)
    kinds: tuple[Kind, ...] = ("pointwise", "depthwise", "grouped", "spatial")
    aliases: tuple[str, ...] = ()
    dynamic_head: bool = True
    ends_only: bool = False
    published: Published | None = None

    @property
    def layers(self) -> tuple[type[DynamicLayer], ...]:
        """The convolution, and the linear layer where there is one."""
        return (self.layer,) if self.linear is None else (self.layer, self.linear)


_registered: dict[str, Family] = {}
_listeners: list[Callable[[Family], None]] = []
_found_entry_points = False


def register_family(family: Family) -> Family:
    """Make a family known to `convert`, the registered networks, checkpoints, analysis, export and the rest.

    Raises:
        ValueError: Its name, an alias or a layer is another family's.
    """
    for other in _registered.values():
        if taken := {family.name, *family.aliases} & {other.name, *other.aliases}:
            raise ValueError(f"the name {min(taken)!r} is taken by the family {other.name!r} ({other.title}).")
        if shared := set(family.layers) & set(other.layers):
            raise ValueError(f"{shared.pop().__name__} is a layer of the family {other.name!r} already.")
    _registered[family.name] = family
    for listener in _listeners:
        listener(family)
    return family


def on_registered(listener: Callable[[Family], None]) -> None:
    """Call a function for each family that is known, and for each that will be."""
    _listeners.append(listener)
    for family in families():
        listener(family)


def families() -> tuple[Family, ...]:
    """Every known family, those of other packages included, which are loaded by the first call."""
    global _found_entry_points
    if not _found_entry_points:
        _found_entry_points = True
        for entry in entry_points(group=ENTRY_POINTS):
            family = entry.load()
            if isinstance(family, Family) and family.name not in _registered:
                register_family(family)
    return tuple(_registered.values())


def get_family(name: str) -> Family:
    """The family of a name or alias.

    Raises:
        ValueError: There is none; the message names the nearest.
    """
    for family in families():
        if name == family.name or name in family.aliases:
            return family
    known = [family.name for family in families()]
    near = nearest_names(str(name), known, count=1)[0]
    raise ValueError(f"`family` is one of {', '.join(sorted(known))}; got {name!r}, and the nearest name is {near!r}.")


def family_of(layer: nn.Module) -> Family | None:
    """The family whose layer this is, not that of a subclass; None for any other module."""
    return next((family for family in families() if type(layer) in family.layers), None)
