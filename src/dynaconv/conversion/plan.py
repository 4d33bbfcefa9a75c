"""The plan of a conversion, made before a model is changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dynaconv.conversion.adopt import adopt_modules
from dynaconv.conversion.candidates import own_options
from dynaconv.conversion.copying import copied
from dynaconv.conversion.kinds import Static, describe, kind_of
from dynaconv.conversion.swap import insert_dynamic
from dynaconv.errors import ConversionError
from dynaconv.families import DynamicLayer, get_family
from dynaconv.families.contract.block import join_contexts
from dynaconv.families.family import Kind


@dataclass(frozen=True, kw_only=True)
class PlannedLayer:
    """One convolution or linear layer of a conversion plan.

    Attributes:
        names: All names under which the model reaches the static layer.
        kind, shape: Its kind, and its channels, kernel size and stride as text.
        reason: Why it stays static; None if it becomes dynamic.
        static_params, dynamic_params: Number of parameters before and after the conversion. Parameters that several
            layers share count for the first of them.
        layer: Name of the class of the dynamic layer.
        note: What the family adds about its layer, such as an option that was adapted to the convolution.
        options: Options of this layer besides those of the whole plan, such as the parameters that it shares.
        relative_error: |W' - W| / |W| where the dynamic layer's kernel W' only approximates the static kernel W; None
            where it is the same.
    """

    names: tuple[str, ...]
    kind: Kind
    shape: str
    reason: str | None
    static_params: int
    dynamic_params: int
    layer: str
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    relative_error: float | None = None

    @property
    def name(self) -> str:
        """The first of ``names``."""
        return self.names[0]

    @property
    def converts(self) -> bool:
        """Whether the layer becomes dynamic."""
        return self.reason is None


@dataclass(frozen=True, kw_only=True)
class AdoptedModule:
    """A module of another package with layers of the family, which becomes one with layers of this package.

    Attributes:
        names: All names under which the model reaches the module.
        kind: Its class name.
        layers: Names of its new dynamic layers.
        old_params, new_params: Number of parameters before and after the conversion.
    """

    names: tuple[str, ...]
    kind: str
    layers: tuple[str, ...]
    old_params: int
    new_params: int


@dataclass(frozen=True, kw_only=True)
class ConversionPlan:
    """Which layers of a model become dynamic, and why the others do not. Printing it shows both.

    Attributes:
        family: Name of the family.
        hyperparameters: Keyword-only arguments of the family's layer; a linear layer gets those that it has.
        layers: Every static convolution of the model, and the linear layers if they were asked for, in module order.
        params: Number of parameters of the whole model before the conversion.
        adopted: Modules of other packages that are taken over with their weights.
    """

    family: str
    hyperparameters: Mapping[str, Any]
    layers: tuple[PlannedLayer, ...]
    params: int
    adopted: tuple[AdoptedModule, ...] = ()

    @property
    def converted(self) -> tuple[PlannedLayer, ...]:
        """The layers that become dynamic."""
        return tuple(layer for layer in self.layers if layer.converts)

    @property
    def converted_params(self) -> int:
        """Number of parameters of the whole model after the conversion."""
        adopted = sum(module.new_params - module.old_params for module in self.adopted)
        return self.params + adopted + sum(layer.dynamic_params - layer.static_params for layer in self.converted)

    def apply(self, model: nn.Module, *, inplace: bool = False) -> nn.Module:
        """Convert a model according to the plan.

        Args:
            model: The model that the plan was made for, or one with the same layers.
            inplace: Change ``model`` itself instead of a copy. If an error is raised, ``model`` is unchanged.

        Returns:
            The dynamic model; ``model`` itself if ``inplace``.

        Raises:
            ConversionError: The model lacks one of these layers, cannot be copied, or is itself one of them and
                ``inplace`` is set.
        """
        is_single_layer = bool(self.converted) and self.converted[0].name == ""
        if is_single_layer and inplace:
            raise ConversionError(
                "the model is itself a layer, which cannot be replaced in place; leave `inplace` out."
            )
        target = model if inplace else copied(model)
        adopt_modules(target, get_family(self.family), [module.names for module in self.adopted])
        dynamic = {layer: _build(self, layer, target) for layer in self.converted}
        try:
            get_family(self.family).join(list(dynamic.values()))
            join_contexts({layer.name: built for layer, built in dynamic.items()})
        except ValueError as error:
            raise ConversionError(str(error)) from error
        if is_single_layer:
            return dynamic[self.converted[0]]
        for planned, layer in dynamic.items():
            insert_dynamic(target, planned.names, layer)
        return target

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=0)
        shapes = max((len(layer.shape) for layer in self.layers), default=0)
        lines = []
        for layer in self.layers:
            what = layer.layer if layer.reason is None else f"static: {layer.reason}"
            counts = f"  {layer.static_params:,} -> {layer.dynamic_params:,}" if layer.converts else ""
            counts += f"  ({layer.note})" if layer.note else ""
            if layer.relative_error is not None:
                counts += f"  relative error {layer.relative_error:.3f}"
            lines.append(f"{layer.name:{width}}  {layer.kind:9}  {layer.shape:{shapes}}  {what}{counts}")
        lines += [
            f"{module.names[0]}  {module.kind} taken over with {len(module.layers)} layers  "
            f"{module.old_params:,} -> {module.new_params:,}"
            for module in self.adopted
        ]
        given = "".join(f", {key}={value!r}" for key, value in self.hyperparameters.items())
        taken = sum(len(module.layers) for module in self.adopted)
        given += f": {taken} layers of another package taken over" if taken else ""
        ratio = self.converted_params / max(self.params, 1)
        what = "layers" if any(layer.kind == "linear" for layer in self.layers) else "convolutions"
        lines.append(
            f"{self.family}{given}: {len(self.converted)} of {len(self.layers)} {what} become dynamic; "
            f"{self.params:,} -> {self.converted_params:,} parameters (x{ratio:.2f})."
        )
        return "\n".join(lines)


def _build(plan: ConversionPlan, planned: PlannedLayer, model: nn.Module) -> DynamicLayer:
    try:
        static = model.get_submodule(planned.name)
    except AttributeError:
        static = None
    if not isinstance(static, Static) or describe(static) != planned.shape or kind_of(static) != planned.kind:
        what = "nothing" if static is None else f"{type(static).__name__}({static.extra_repr()})"
        raise ConversionError(
            f"the plan was made for another model: {planned.name!r} was {planned.shape}, but is {what} in this model."
        )
    family = get_family(plan.family)
    try:
        options = own_options(family.layer_for(static), {**plan.hyperparameters, **planned.options})
        layer: DynamicLayer = family.from_static(static, **options)
        return layer
    except (ValueError, TypeError) as error:
        raise ConversionError(f"{planned.name!r} cannot be converted: {error}") from error
