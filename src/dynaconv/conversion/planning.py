"""Decides for each static layer of a network whether it becomes dynamic, and what the dynamic layers share."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from dynaconv.conversion.adopt import layer_names
from dynaconv.conversion.blocks import first_of_block
from dynaconv.conversion.candidates import layer_name, layer_options, like_on_meta, own_options, try_family
from dynaconv.conversion.eligibility import find_shared, find_stems, refusal
from dynaconv.conversion.kinds import Static, channels_of, describe, kind_of
from dynaconv.conversion.plan import AdoptedModule, ConversionPlan, PlannedLayer
from dynaconv.conversion.select import Selection
from dynaconv.conversion.stages import stage_refusals
from dynaconv.conversion.swap import all_names
from dynaconv.errors import ConversionError, received, with_article
from dynaconv.families import DynamicLayer, Family
from dynaconv.families.contract.checks import check_integer
from dynaconv.families.contract.static import static_class


def find_static(model: nn.Module, *, linear: bool = False) -> dict[str, tuple[tuple[str, ...], Static]]:
    """Return every static layer by its first name, with all names under which the model reaches it.

    Args:
        model: A network.
        linear: Whether to include linear layers; those inside dynamic layers are parts of these.
    """
    parts = {part for module in model.modules() if isinstance(module, DynamicLayer) for part in module.modules()}
    return {
        names[0]: (tuple(names), module)
        for module, names in all_names(model).items()
        if (isinstance(module, _ConvNd) and static_class(module) is not None)
        or (linear and isinstance(module, nn.Linear) and module not in parts)
    }


def plan_layers(
    model: nn.Module,
    family: Family,
    selection: Selection,
    named: Selection,
    hyperparameters: Mapping[str, Any],
    stages: Mapping[str, str],
) -> list[PlannedLayer]:
    """Return the plan of every layer; those that ``include`` names in full need only meet ``named``."""
    found = find_static(model, linear="linear" in selection.kinds)
    modules = {name: static for name, (_, static) in found.items()}
    convolutions = {name: static for name, static in modules.items() if isinstance(static, _ConvNd)}
    stems = find_stems(model, convolutions) if len(convolutions) > 1 else set()
    shared = find_shared(model, modules)
    layers = []
    for name, (names, static) in found.items():
        in_full = selection.includes_by_name(names)
        reason = (named if in_full else selection).refusal(names, static) or stages.get(name)
        dynamic, note = 0, ""
        if reason is None:
            reason = None if in_full or name not in stems else "the stem"
            obstacle = refusal(model, name, static)
            if name in shared:
                obstacle = f"its weight is shared with {shared[name]!r}"
            family_refusal, dynamic, note = try_family(family, static, hyperparameters)
            obstacle = obstacle or family_refusal
            if obstacle is not None and in_full:
                raise ConversionError(f"{name!r} cannot be converted: {obstacle}.")
            reason = reason or obstacle
        layers.append(_planned(family, names, static, reason, dynamic, note))
    return layers


def _planned(
    family: Family, names: tuple[str, ...], static: Static, reason: str | None, dynamic_params: int = 0, note: str = ""
) -> PlannedLayer:
    """Return the entry of a layer, which stays static if there is a reason."""
    params = sum(parameter.numel() for parameter in static.parameters(recurse=False))
    return PlannedLayer(
        names=names,
        kind=kind_of(static),
        shape=describe(static),
        reason=reason,
        static_params=params,
        dynamic_params=params if reason else dynamic_params,
        layer=layer_name(family, static),
        note="" if reason else note,
    )


def adoption_plan(model: nn.Module, family: Family, adoptable: Mapping[tuple[str, ...], nn.Module]) -> ConversionPlan:
    """Return the plan that takes over the family's layers of another package and leaves all else static."""
    reason = f"only the model's own {family.name} layers are taken over"
    layers = tuple(_planned(family, names, static, reason) for names, static in find_static(model).values())
    adopted = tuple(
        AdoptedModule(
            names=names,
            kind=type(model.get_submodule(names[0])).__name__,
            layers=layer_names(names[0], module),
            old_params=sum(parameter.numel() for parameter in model.get_submodule(names[0]).parameters()),
            new_params=sum(parameter.numel() for parameter in module.parameters()),
        )
        for names, module in adoptable.items()
    )
    params = sum(parameter.numel() for parameter in model.parameters())
    return ConversionPlan(family=family.name, hyperparameters={}, layers=layers, params=params, adopted=adopted)


def refusals_by_stage(
    model: nn.Module, selection: Selection, last_stages: int, input_size: Sequence[int] | None
) -> dict[str, str]:
    """Return why layers are not in the last stages, by name; see `stage_refusals`.

    Raises:
        ConversionError: ``last_stages`` is no positive integer, or the model does not run.
    """
    count = check_integer("`last_stages`", last_stages, error=ConversionError)
    found = find_static(model, linear="linear" in selection.kinds)
    return stage_refusals(model, {name: static for name, (_, static) in found.items()}, count, input_size)


def apply_position(layers: list[PlannedLayer], position: slice | None) -> list[PlannedLayer]:
    """Return the plan in which only a part of the layers become dynamic.

    Raises:
        TypeError: ``position`` is no slice.
    """
    if position is None:
        return layers
    if not isinstance(position, slice):
        raise TypeError(
            f"`position` must be a slice, such as slice(-10, None) for the last ten; got {received(position)}."
        )
    selected = {layer.names for layer in [layer for layer in layers if layer.converts][position]}
    return [
        layer
        if not layer.converts or layer.names in selected
        else dataclasses.replace(layer, reason="outside the position", dynamic_params=layer.static_params, note="")
        for layer in layers
    ]


def share(
    model: nn.Module,
    family: Family,
    layers: list[PlannedLayer],
    hyperparameters: Mapping[str, Any],
    *,
    by_block: bool,
) -> list[PlannedLayer]:
    """Plan what the layers that become dynamic share, parameters or contexts, and count their parameters accordingly.

    Raises:
        ConversionError: The layers cannot share it.
    """
    modules: dict[str, Any] = {layer.name: model.get_submodule(layer.name) for layer in layers if layer.converts}
    if not modules:
        return layers
    first = _firsts(family, modules) if by_block else {}
    if family.sharing is None and not first:
        return layers
    try:
        further = {name: _context_options(modules, first.get(name)) for name in modules}
        if family.sharing is not None:
            shared = family.sharing.options(model, modules, hyperparameters)
            further = {name: {**further[name], **shared[name]} for name in modules}
        options = {
            name: own_options(family.layer_for(static), {**hyperparameters, **further[name]})
            for name, static in modules.items()
        }
        dynamic = {name: like_on_meta(family, static, options[name]) for name, static in modules.items()}
        family.join(list(dynamic.values()))
    except ValueError as error:
        raise ConversionError(str(error)) from error
    weights = {name: static.weight for name, static in modules.items()}
    errors = {} if family.sharing is None else family.sharing.errors(options, weights)
    return [
        dataclasses.replace(
            layer,
            note=", ".join(filter(None, (layer.note, _context_note(layer.name, first)))),
            options=further[layer.name],
            dynamic_params=sum(parameter.numel() for parameter in dynamic[layer.name].parameters()),
            relative_error=errors.get(layer.name),
        )
        if layer.converts
        else layer
        for layer in layers
    ]


def _firsts(family: Family, modules: Mapping[str, Static]) -> dict[str, str]:
    """Return the name of the first layer of each layer's block.

    Raises:
        ConversionError: No layers share a context.
    """
    able = [name for name, static in modules.items() if "shared_context" in layer_options(family.layer_for(static))]
    first = first_of_block(able)
    if not first:
        raise ConversionError(
            "context='block' has no effect: no two of the layers that become dynamic are in one block; leave `context` "
            "out."
        )
    return first


def _context_options(modules: Mapping[str, Any], first: str | None) -> dict[str, Any]:
    """Return the options of a layer that shares the context of the one named ``first``; None: its own."""
    return {} if first is None else {"context_features": channels_of(modules[first])[0], "shared_context": first}


def _context_note(name: str, first: Mapping[str, str]) -> str:
    """Return the plan's words about a layer's context; empty if no layers share one."""
    if name not in first:
        return "in no block: a context of its own" * bool(first)
    return "computes the context of its block" if name == first[name] else f"context of {first[name]}"


def check_options_act(model: nn.Module, family: Family, plan: ConversionPlan) -> None:
    """Raise ConversionError if no layer that becomes dynamic has one of the plan's hyperparameters."""
    kinds = {family.layer_for(model.get_submodule(layer.name)) for layer in plan.converted}
    known = {name for kind in kinds for name in layer_options(kind)}
    for name in plan.hyperparameters.keys() - known if kinds else ():
        what = with_article(max(kind.__name__ for kind in kinds))
        raise ConversionError(
            f"{name!r} has no effect: {what} has no such option; leave it out, or convert others too."
        )


def nothing_to_convert(plan: ConversionPlan) -> str:
    """Return the message of an error about a plan that converts nothing."""
    if not plan.layers:
        return "there is nothing to convert: the model has no static convolution."
    reasons = Counter(layer.reason for layer in plan.layers).most_common(3)
    why = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    what = "layers" if any(layer.kind == "linear" for layer in plan.layers) else "convolutions"
    return f"there is nothing to convert to {plan.family}: all {len(plan.layers)} {what} stay static ({why})."
