"""Plan a conversion and carry it out."""

import dataclasses
import inspect
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from dynaconv.conversion.eligibility import find_shared, find_stems, first_lazy, refusal
from dynaconv.conversion.kinds import Kind, describe, kind_of
from dynaconv.conversion.plan import ConversionPlan, PlannedLayer
from dynaconv.conversion.select import Pattern, Predicate, Selection, as_kinds, as_patterns
from dynaconv.errors import ConversionError, nearest_names
from dynaconv.families import DynamicConv2d, Family, get_family
from dynaconv.families.contract.convolution import conv_arguments


def plan_conversion(
    model: nn.Module,
    family: str = "dcd",
    *,
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
    kinds: Kind | Iterable[Kind] | None = None,
    kernel_sizes: int | Iterable[int] | None = None,
    min_channels: int | None = None,
    max_channels: int | None = None,
    position: slice | None = None,
    predicate: Predicate | None = None,
    again: bool = False,
    **hyperparameters: Any,
) -> ConversionPlan:
    """Plan to make convolutions of a network dynamic without changing its function. Nothing is changed.

    The stem (what reads the image), gates, blocks that merge kernels later, weights that are shared or computed, and
    what the family cannot take stay static; the plan says why. Naming a convolution in full overrules the first two.

    Args:
        model: Any network of `torch.nn.Conv2d`.
        family: Name of the family: dcd, condconv, dyconv, odconv or se.
        include, exclude: Full module names, patterns of them as the shell has them (``*`` matches dots too), or
            compiled regular expressions.
        kinds: pointwise, depthwise, grouped, spatial; by default all, for dcd and se all but depthwise.
        kernel_sizes: Sides of the kernels to take.
        min_channels, max_channels: Bounds of the smaller of the channels in and out.
        position: Part of what would be taken, in the order of the model's modules, such as ``slice(-10, None)``.
        predicate: Further condition on name and convolution.
        again: Allow a model that has dynamic layers, which stay as they are.
        hyperparameters: Keyword-only arguments of the family's layer.

    Raises:
        ConversionError: The family or a hyperparameter is unknown, a pattern matches no convolution, nothing is left
            to convert, one named in full cannot be, or the model is dynamic already.
        TypeError: An argument is of the wrong type.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` is a torch.nn.Module; got {type(model).__name__}.")
    known = _family(family)
    _check_hyperparameters(known, hyperparameters)
    _check_model(model, again=again)
    selection = Selection(
        include=as_patterns("include", include),
        exclude=as_patterns("exclude", exclude),
        kinds=known.kinds if kinds is None else as_kinds(kinds),
        kernel_sizes=None if kernel_sizes is None else _sizes(kernel_sizes),
        min_channels=min_channels,
        max_channels=max_channels,
        position=position,
        predicate=predicate,
    )
    selection.check_patterns(model)
    layers = _in_position(_planned(model, known, selection, hyperparameters, kinds is None), position)
    plan = ConversionPlan(
        family=known.name,
        hyperparameters=dict(hyperparameters),
        layers=tuple(layers),
        params=sum(parameter.numel() for parameter in model.parameters()),
    )
    if not plan.converted:
        raise ConversionError(_nothing(plan))
    return plan


def convert(
    model: nn.Module,
    family: str = "dcd",
    *,
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
    kinds: Kind | Iterable[Kind] | None = None,
    kernel_sizes: int | Iterable[int] | None = None,
    min_channels: int | None = None,
    max_channels: int | None = None,
    position: slice | None = None,
    predicate: Predicate | None = None,
    again: bool = False,
    inplace: bool = False,
    **hyperparameters: Any,
) -> nn.Module:
    """Make convolutions of a network dynamic without changing its function.

    Every layer takes over the convolution's arguments, weights, dtype, device, memory format, trainability, mode and
    hooks. In eval mode the outputs are those of before, up to rounding, until the network is trained. An optimiser
    made before does not know the new parameters, and `torch.nn.parallel` and `torch.compile` come afterwards.

    Args:
        inplace: Change ``model`` itself instead of a copy; it is changed wholly or not at all.
        model, family, include, exclude, kinds, kernel_sizes, min_channels, max_channels, position, predicate, again,
            hyperparameters: As for `plan_conversion`, which shows what would happen.

    Returns:
        The dynamic network; ``model`` itself when ``inplace``.

    Raises:
        ConversionError: As for `plan_conversion`, or the model cannot be copied.
        TypeError: An argument is of the wrong type.
    """
    plan = plan_conversion(
        model,
        family,
        include=include,
        exclude=exclude,
        kinds=kinds,
        kernel_sizes=kernel_sizes,
        min_channels=min_channels,
        max_channels=max_channels,
        position=position,
        predicate=predicate,
        again=again,
        **hyperparameters,
    )
    return plan.apply(model, inplace=inplace)


def find_convolutions(model: nn.Module) -> dict[str, tuple[tuple[str, ...], nn.Conv2d]]:
    """Every static convolution under its first name, with all names that reach it."""
    names: dict[int, list[str]] = {}
    found: dict[int, nn.Conv2d] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Conv2d):
            names.setdefault(id(module), []).append(name)
            found[id(module)] = module
    return {names[key][0]: (tuple(names[key]), conv) for key, conv in found.items()}


def _planned(
    model: nn.Module, family: Family, selection: Selection, hyperparameters: Mapping[str, Any], own_kinds: bool
) -> list[PlannedLayer]:
    found = find_convolutions(model)
    convolutions = {name: conv for name, (_, conv) in found.items()}
    stems = find_stems(model, convolutions) if len(found) > 1 else set()
    shared = find_shared(model, convolutions)
    layers = []
    for name, (names, conv) in found.items():
        named = selection.names_exactly(names)
        asked = dataclasses.replace(selection, kinds=(kind_of(conv),)) if named and own_kinds else selection
        reason = asked.refusal(names, conv)
        dynamic = 0
        if reason is None:
            reason = None if named or name not in stems else "the stem"
            against = refusal(model, name, conv)
            if name in shared:
                against = f"its weight is shared with {shared[name]!r}"
            fits, dynamic = _fits(family, conv, hyperparameters)
            against = against or fits
            if against is not None and named:
                raise ConversionError(f"{name!r} cannot become a {family.layer.__name__}: {against}.")
            reason = reason or against
        static = sum(parameter.numel() for parameter in conv.parameters(recurse=False))
        layers.append(
            PlannedLayer(
                names=names,
                kind=kind_of(conv),
                shape=describe(conv),
                reason=reason,
                static_params=static,
                dynamic_params=static if reason else dynamic,
            )
        )
    return layers


def _in_position(layers: list[PlannedLayer], position: slice | None) -> list[PlannedLayer]:
    if position is None:
        return layers
    if not isinstance(position, slice):
        raise TypeError(f"`position` is a slice, such as slice(-10, None) for the last ten; got {position!r}.")
    kept = {layer.names for layer in [layer for layer in layers if layer.converts][position]}
    return [
        layer
        if not layer.converts or layer.names in kept
        else dataclasses.replace(layer, reason="outside the position", dynamic_params=layer.static_params)
        for layer in layers
    ]


def _fits(family: Family, conv: nn.Conv2d, hyperparameters: Mapping[str, Any]) -> tuple[str | None, int]:
    """Why the family cannot take a convolution, or None; and the parameters of its layer."""
    if not conv.weight.dtype.is_floating_point:
        return f"its dtype is {conv.weight.dtype}", 0
    twin = nn.Conv2d(**conv_arguments(conv), bias=conv.bias is not None, device="meta", dtype=conv.weight.dtype)
    try:
        layer = family.layer.like(twin, **hyperparameters)
    except (ValueError, TypeError) as error:
        return str(error).rstrip("."), 0
    return None, sum(parameter.numel() for parameter in layer.parameters())


def _family(family: str) -> Family:
    try:
        return get_family(family)
    except ValueError as error:
        raise ConversionError(str(error)) from None


def _check_hyperparameters(family: Family, hyperparameters: Mapping[str, Any]) -> None:
    layer = family.layer
    own = [name for name, value in inspect.signature(layer).parameters.items() if value.kind is value.KEYWORD_ONLY]
    ours = [name for name, value in inspect.signature(convert).parameters.items() if value.kind is value.KEYWORD_ONLY]
    for name in hyperparameters:
        if name not in own:
            near = nearest_names(name, [*own, *ours], count=1)[0]
            raise ConversionError(
                f"{layer.__name__} has no hyperparameter {name!r}; it takes {', '.join(sorted(own))}, "
                f"and the nearest name is {near!r}."
            )


def _check_model(model: nn.Module, *, again: bool) -> None:
    for wrapper in ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "OptimizedModule"):
        if type(model).__name__ == wrapper:
            raise ConversionError(f"the model is wrapped by {wrapper}; convert it first and wrap it then.")
    if isinstance(model, torch.jit.ScriptModule):
        raise ConversionError("the model is a TorchScript program, which holds no modules to replace.")
    lazy = first_lazy(model)
    if lazy is not None:
        raise ConversionError(f"{lazy!r} has no size yet; run the network once before it is converted.")
    dynamic = [name for name, module in model.named_modules() if isinstance(module, DynamicConv2d)]
    if dynamic and not again:
        raise ConversionError(
            f"the model is converted already: {len(dynamic)} of its layers are dynamic, {dynamic[0]!r} first; take the "
            f"static network (revert gives it back while it is untrained), or say `again` to convert others too."
        )


def _sizes(given: int | Iterable[int]) -> tuple[int, ...]:
    sizes = (given,) if isinstance(given, int) else tuple(given)
    if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ConversionError(f"`kernel_sizes` is a side of kernels in pixels, or several; got {given!r}.")
    return sizes


def _nothing(plan: ConversionPlan) -> str:
    if not plan.layers:
        return "there is nothing to convert: the model has no static Conv2d."
    reasons = Counter(layer.reason for layer in plan.layers).most_common(3)
    why = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    return f"there is nothing to convert to {plan.family}: of {len(plan.layers)} convolutions none is left ({why})."
