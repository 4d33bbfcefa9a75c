"""The descriptor of a family of dynamic layers. Registering it is the only edit outside the family's folder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Literal

from torch import Tensor, nn

from dynaconv.errors import check_type, with_article
from dynaconv.families.contract.base import DynamicConv
from dynaconv.families.contract.checks import check_choice
from dynaconv.families.contract.layer import DynamicLayer

Kind = Literal["pointwise", "depthwise", "grouped", "spatial", "transposed", "linear"]
Role = Literal["mixing", "gate", "matrix"]
ENTRY_POINTS = "dynaconv.families"
"""Entry-point group in which other packages name their `Family` objects."""


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """Description of one field of a layer's ``coefficients(x)``, for tables and figures.

    Attributes:
        symbol: Symbol of the coefficient, such as "Λ", or the name of the axis of an attention.
        role: "mixing" weights K kernels, "gate" multiplies elements of the kernel, "matrix" mixes latent channels.
        act: Effect of the coefficient, as a phrase after its symbol: "scales each output channel".
        element: Meaning of one element of a vector.
        limit: Upper limit of a gate, whose lower limit is 0; a function of the layer if the limit depends on its
            options; None for a gate without limits.
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
        options: Returns the layer's keyword options for ``(style, in_channels, out_channels, *, fc_squeeze)``.
        classifier: Class of the layer that replaces the linear classifier.
    """

    options: Callable[..., dict[str, Any]]
    classifier: type[Any]


@dataclass(frozen=True, kw_only=True)
class PublishedKeys:
    """Names of the tensors in the published code's checkpoints, whose layers have the family's structure.

    Attributes:
        kind: Name of the kind of checkpoint, for messages and reports.
        marker: Suffix of a key that only these checkpoints have.
        name: Returns the published name of a layer's tensor, such as ``attention.fc.weight``, for the layer, our name
            and the network, ``MobileNetV2`` or ``ResNet``.
        shared: Returns the published keys of tensors that several layers share, by the name of the layer that owns each
            and our name, given the dynamic layers by name and all keys of the network.
        optional: Our names of tensors that these checkpoints lack.
        transposed: Our names of matrices that these checkpoints hold transposed.
    """

    kind: str
    marker: str
    name: Callable[[nn.Module, str, str | None], str]
    shared: Callable[[Mapping[str, nn.Module], Iterable[str]], Mapping[tuple[str, str], str]] = lambda layers, keys: {}
    optional: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How layers of a network share parameters.

    Attributes:
        options: Returns further options for each of the convolutions and linear layers that become dynamic, by name,
            given the network, their modules in the order of the network's modules, and the options of all of them.
        join: Makes layers share parameters according to their options, in place, given the layers in the same order.
            Raises ValueError, before it changes a layer, if they cannot.
        errors: Returns the relative error of each kernel that the layers could not take over exactly, by name, given
            the layers' options and static kernels by name.
    """

    options: Callable[[nn.Module, Mapping[str, Any], Mapping[str, Any]], Mapping[str, Mapping[str, Any]]]
    join: Callable[[Sequence[DynamicLayer]], None]
    errors: Callable[[Mapping[str, Mapping[str, Any]], Mapping[str, Tensor]], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Descriptor of a family of dynamic layers, through which the rest of the library uses the family.

    By default, the dynamic convolutions of a registered network are those of the family's paper, as far as the
    published parameter counts show; docs/paper-tables.md compares the counts.

    Attributes:
        name: Name in folders, records and registered networks, such as "dcd".
        title: Descriptive name.
        equation: The kernel W(x) in one line of text, with the symbols of the coefficients.
        arxiv: arXiv identifier of the paper.
        citation: BibTeX of the paper.
        layer: Class of the convolution over images, or the only one.
        others: Classes of the convolution in other dimensions, and of transposed convolutions.
        linear: Class of the linear layer, if the family has one.
        coefficients: Descriptions of the fields of the ``coefficients`` tuple, by name.
        kinds: Kinds of layers that `convert` replaces by default.
        kernel_sizes: Side lengths of the kernels that its convolution supports; None: all.
        grouped: Whether its convolution supports groups.
        min_channels: `convert` by default, and the registered networks, leave convolutions with fewer input or output
            channels static.
        aliases: Other names that arguments accept.
        dynamic_head: Whether the 1x1 convolution after the blocks of the registered MobileNetV2 is dynamic.
        ends_only: Whether only the last convolution of each block is dynamic in the registered networks.
        published: The published code's networks, if they differ.
        published_keys: Names in the published checkpoints of the registered networks, if there are any.
        sharing: How layers share parameters, if they do.
        network: For a registered network with static layers and the options of all layers, returns the options of each
            dynamic layer by name, in the order of the network's modules. None: `kinds`, `dynamic_head` and `ends_only`
            determine the dynamic layers.
        adopt: Returns a module with layers of the family that computes the function of a module of another package;
            None for modules that it does not know. None if no other package's layers are supported.
        published_layer: Returns the layer for the state of one published layer and its metadata, for
            `dynaconv.published_layer`; None if no published code is supported. It may raise ValueError, RuntimeError of
            `load_state_dict`, or KeyError of a missing tensor.
    """

    name: str
    title: str
    arxiv: str
    citation: str
    layer: type[DynamicConv]
    equation: str = ""
    others: tuple[type[DynamicConv], ...] = ()
    linear: type[Any] | None = None
    coefficients: Mapping[str, Coefficient] = field(default_factory=dict)
    kinds: tuple[Kind, ...] = ("pointwise", "depthwise", "grouped", "spatial", "transposed")
    kernel_sizes: tuple[int, ...] | None = None
    grouped: bool = True
    min_channels: int = 1
    aliases: tuple[str, ...] = ()
    dynamic_head: bool = True
    ends_only: bool = False
    published: Published | None = None
    published_keys: PublishedKeys | None = None
    sharing: Sharing | None = None
    network: Callable[[nn.Module, Mapping[str, Any]], Mapping[str, Mapping[str, Any]]] | None = None
    adopt: Callable[[nn.Module], nn.Module | None] | None = None
    published_layer: Callable[[Mapping[str, Tensor], Mapping[str, Any]], DynamicLayer] | None = None

    @property
    def layers(self) -> tuple[type[DynamicLayer], ...]:
        """The classes of the convolutions and, if there is one, of the linear layer."""
        return self.convolutions if self.linear is None else (*self.convolutions, self.linear)

    @property
    def convolutions(self) -> tuple[type[DynamicConv], ...]:
        """The classes of the convolutions, in every dimension that the family has."""
        return (self.layer, *self.others)

    def layer_for(self, static: nn.Module) -> type[Any]:
        """Return the class of the family's layer for a static convolution or linear layer.

        Raises:
            TypeError: ``static`` is neither, or the family has no layer for it.
        """
        for layer in self.layers:
            if isinstance(static, layer.static_class()):
                return layer
        known = ", ".join(sorted(layer.static_class().__name__ for layer in self.layers))
        raise TypeError(f"{self.name} has no layer for {with_article(type(static).__name__)}; it has one for {known}.")

    def from_static(self, static: nn.Module, **options: Any) -> Any:
        """Return the family's layer that computes the function of a static one until it is trained.

        Raises:
            TypeError: the family has no layer for ``static`` or cannot keep its function, or an option is unknown.
            ValueError: an option is invalid for the layer.
        """
        layer = self.layer_for(static)
        return (layer.from_linear if layer is self.linear else layer.from_conv)(static, **options)

    def join(self, layers: Sequence[DynamicLayer]) -> None:
        """Make new layers of one network share what the family shares, in place; see `Sharing.join`."""
        if self.sharing is not None:
            self.sharing.join(layers)


_registered: dict[str, Family] = {}
_listeners: list[Callable[[Family], None]] = []
_entry_points_loaded = False


def register_family(family: Family) -> Family:
    """Register a family for `convert`, the registered networks, checkpoints, analysis, export and all other modules.

    Raises:
        ValueError: Its name, an alias or a layer belongs to another family.
    """
    check_type("family", family, Family)
    for other in _registered.values():
        if taken := {family.name, *family.aliases} & {other.name, *other.aliases}:
            raise ValueError(
                f"the name {min(taken)!r} is taken by the family {other.name!r} ({other.title}); choose another."
            )
        if shared := set(family.layers) & set(other.layers):
            raise ValueError(f"{shared.pop().__name__} is already a layer of the family {other.name!r}.")
    _registered[family.name] = family
    for listener in _listeners:
        listener(family)
    return family


def on_registered(listener: Callable[[Family], None]) -> None:
    """Call a function for each registered family now, and for each later family when it is registered."""
    _listeners.append(listener)
    for family in families():
        listener(family)


def families() -> tuple[Family, ...]:
    """Return all registered families. The first call also loads the families of other packages."""
    global _entry_points_loaded
    if not _entry_points_loaded:
        _entry_points_loaded = True
        for entry in entry_points(group=ENTRY_POINTS):
            family = entry.load()
            if isinstance(family, Family) and family.name not in _registered:
                register_family(family)
    return tuple(_registered.values())


def get_family(name: str) -> Family:
    """Return the family with a name or alias.

    Raises:
        ValueError: No family has this name; the message gives the nearest name.
    """
    known = families_by_name()
    check_choice("`family`", name, sorted(known))
    return known[name]


def families_by_name() -> dict[str, Family]:
    """Return the families by their names and aliases."""
    return {name: family for family in families() for name in (family.name, *family.aliases)}


def family_of(layer: nn.Module) -> Family | None:
    """Return the family whose layer class is exactly the module's type; None for other modules, also subclasses."""
    return next((family for family in families() if type(layer) in family.layers), None)
