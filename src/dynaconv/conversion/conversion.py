"""Plan a conversion and carry it out."""

import dataclasses
import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from dynaconv.conversion.adopt import find_adoptable, layer_names
from dynaconv.conversion.blocks import first_of_block
from dynaconv.conversion.eligibility import find_shared, find_stems, first_lazy, refusal
from dynaconv.conversion.kinds import KINDS, Kind, describe, kind_of
from dynaconv.conversion.plan import AdoptedModule, ConversionPlan, PlannedLayer
from dynaconv.conversion.select import Pattern, Predicate, Selection, as_kinds, as_patterns
from dynaconv.conversion.stages import stage_refusals
from dynaconv.errors import ConversionError, nearest_names
from dynaconv.families import DynamicConv, Family, get_family
from dynaconv.families.contract.checks import check_module, check_positive
from dynaconv.families.contract.convolution import conv_arguments
from dynaconv.families.contract.static import static_class


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
    last_stages: int | None = None,
    position: slice | None = None,
    predicate: Predicate | None = None,
    input_size: Sequence[int] | None = None,
    again: bool = False,
    context: Literal["block"] | None = None,
    **hyperparameters: Any,
) -> ConversionPlan:
    """Plan which convolutions of a network to make dynamic. The model is not changed.

    These stay static, and the plan says why: the stem (the convolutions that read the image), channel-attention gates,
    blocks that merge their kernels later, convolutions whose weight is shared or computed, and those that the family
    does not support. A stem that ``include`` names in full is converted.

    If the model has layers of the family from another package, as timm's ``tf_efficientnet_cc_b0_4e`` has of CondConv,
    these become layers of this package, with their weights, and everything else stays static.

    Args:
        model: Any network with convolutions of torch in one, two or three dimensions, also transposed ones.
        family: Name of the family: condconv, dcd, dyconv, fdconv, kernel_warehouse, odconv, se, or one from another
            package.
        include, exclude: Full module names, shell-style patterns (``*`` also matches dots) or compiled regular
            expressions.
        kinds: Any of pointwise, depthwise, grouped, spatial and transposed; by default those of the family: all, for
            dcd and se all except depthwise, for fdconv pointwise and spatial.
        kernel_sizes: Side lengths of the kernels to convert; by default all that the family supports.
        min_channels, max_channels: Bounds of ``min(in_channels, out_channels)``; by default none, for fdconv at least
            17 channels.
        last_stages: Number of stages at the end whose convolutions are converted; a stage ends where the feature maps
            become smaller by half. For example, 2 selects the layers of 14x14 and 7x7 pixels in a ResNet for 224x224.
            The model runs once to find them, in eval mode on random images.
        position: Slice of the convolutions that meet all other conditions, in module order; ``slice(-10, None)``
            selects the last ten.
        predicate: Further condition, called with the name and the convolution.
        input_size: ``(C, H, W)`` or ``(B, C, H, W)`` of these images; None: one that the model accepts.
        again: Allow a model that already has dynamic layers; those do not change.
        context: ``block``: the layers of a block read one context, the averaged input of its first layer, which that
            layer passes on in each forward pass. A block is a module around several converted convolutions that holds
            no smaller block. None: each layer reads its own averaged input.
        hyperparameters: Keyword-only arguments of the family's layer.

    Raises:
        ConversionError: The family or a hyperparameter is unknown, a pattern matches no convolution, no convolution is
            left to convert, a convolution named in full cannot be converted, or the model is already dynamic.
        TypeError: An argument is of the wrong type.
    """
    check_module(model)
    chosen = _family(family)
    _check_hyperparameters(chosen, hyperparameters)
    if context not in (None, "block"):
        raise ConversionError(f"`context` must be 'block', or None for a context of each layer's own; got {context!r}.")
    _check_model(model, again=again)
    named = Selection(
        include=as_patterns("include", include),
        exclude=as_patterns("exclude", exclude),
        kinds=KINDS if kinds is None else as_kinds(kinds),
        kernel_sizes=None if kernel_sizes is None else _as_kernel_sizes(kernel_sizes),
        min_channels=min_channels,
        max_channels=max_channels,
        position=position,
        predicate=predicate,
    )
    named.check_patterns(model)
    selection = dataclasses.replace(
        named,
        kinds=chosen.kinds if kinds is None else named.kinds,
        kernel_sizes=chosen.kernel_sizes if kernel_sizes is None else named.kernel_sizes,
        min_channels=chosen.min_channels if min_channels is None else min_channels,
    )
    if input_size is not None and last_stages is None:
        raise ConversionError("`input_size` serves to find the last stages only; give `last_stages`, or leave it out.")
    adoptable = {} if again else find_adoptable(model, chosen)
    if adoptable:
        conditions = named != Selection(kinds=KINDS) or kinds is not None or last_stages is not None
        conditions = conditions or context is not None
        if conditions or hyperparameters:
            raise ConversionError(
                f"the model has {chosen.name} layers of another package, which are taken over as they are; leave "
                f"conditions and hyperparameters out, and convert more of the result with again=True."
            )
        return _adoption_plan(model, chosen, adoptable)
    stages = {} if last_stages is None else _stage_refusals(model, last_stages, input_size)
    layers = _plan_layers(model, chosen, selection, named, hyperparameters, stages)
    layers = _apply_position(layers, position)
    layers = _share(model, chosen, layers, hyperparameters, by_block=context == "block")
    plan = ConversionPlan(
        family=chosen.name,
        hyperparameters=dict(hyperparameters),
        layers=tuple(layers),
        params=sum(parameter.numel() for parameter in model.parameters()),
    )
    if not plan.converted:
        raise ConversionError(_nothing_to_convert(plan))
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
    last_stages: int | None = None,
    position: slice | None = None,
    predicate: Predicate | None = None,
    input_size: Sequence[int] | None = None,
    again: bool = False,
    context: Literal["block"] | None = None,
    inplace: bool = False,
    **hyperparameters: Any,
) -> nn.Module:
    """Make convolutions of a network dynamic without changing its function.

    Each dynamic layer takes over the arguments, weights, dtype, device, memory format, ``requires_grad``, mode and
    hooks of its convolution. In eval mode the outputs are those of ``model``, up to rounding, until the network is
    trained. Convert before you create the optimiser, which would otherwise lack the new parameters, and before you
    apply `torch.nn.parallel` and `torch.compile`.

    Args:
        inplace: Change ``model`` itself instead of a copy. If an error is raised, ``model`` is unchanged.
        model, family, include, exclude, kinds, kernel_sizes, min_channels, max_channels, last_stages, position,
            predicate, input_size, again, context, hyperparameters: As for `plan_conversion`, which shows the effect
            without changing the model.

    Returns:
        The dynamic network; ``model`` itself if ``inplace``.

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
        last_stages=last_stages,
        position=position,
        predicate=predicate,
        input_size=input_size,
        again=again,
        context=context,
        **hyperparameters,
    )
    return plan.apply(model, inplace=inplace)


def find_convolutions(model: nn.Module) -> dict[str, tuple[tuple[str, ...], _ConvNd]]:
    """Return every static convolution by its first name, with all names under which the model reaches it."""
    names: dict[int, list[str]] = {}
    convolutions: dict[int, _ConvNd] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _ConvNd) and static_class(module) is not None:
            names.setdefault(id(module), []).append(name)
            convolutions[id(module)] = module
    return {names[key][0]: (tuple(names[key]), conv) for key, conv in convolutions.items()}


def _plan_layers(
    model: nn.Module,
    family: Family,
    selection: Selection,
    named: Selection,
    hyperparameters: Mapping[str, Any],
    stages: Mapping[str, str],
) -> list[PlannedLayer]:
    """Return the plan of every convolution; those that ``include`` names in full need only meet ``named``."""
    named_convolutions = find_convolutions(model)
    convolutions = {name: conv for name, (_, conv) in named_convolutions.items()}
    stems = find_stems(model, convolutions) if len(convolutions) > 1 else set()
    shared = find_shared(model, convolutions)
    layers = []
    for name, (names, conv) in named_convolutions.items():
        in_full = selection.includes_by_name(names)
        reason = (named if in_full else selection).refusal(names, conv) or stages.get(name)
        dynamic, note = 0, ""
        if reason is None:
            reason = None if in_full or name not in stems else "the stem"
            obstacle = refusal(model, name, conv)
            if name in shared:
                obstacle = f"its weight is shared with {shared[name]!r}"
            family_refusal, dynamic, note = _try_family(family, conv, hyperparameters)
            obstacle = obstacle or family_refusal
            if obstacle is not None and in_full:
                raise ConversionError(f"{name!r} cannot be converted: {obstacle}.")
            reason = reason or obstacle
        layers.append(_planned(family, names, conv, reason, dynamic, note))
    return layers


def _planned(
    family: Family, names: tuple[str, ...], conv: _ConvNd, reason: str | None, dynamic_params: int = 0, note: str = ""
) -> PlannedLayer:
    """Return the entry of a convolution, which stays static if there is a reason."""
    static = sum(parameter.numel() for parameter in conv.parameters(recurse=False))
    return PlannedLayer(
        names=names,
        kind=kind_of(conv),
        shape=describe(conv),
        reason=reason,
        static_params=static,
        dynamic_params=static if reason else dynamic_params,
        layer=_layer_name(family, conv),
        note="" if reason else note,
    )


def _adoption_plan(model: nn.Module, family: Family, adoptable: Mapping[tuple[str, ...], nn.Module]) -> ConversionPlan:
    """Return the plan that takes over the family's layers of another package and leaves all else static."""
    reason = f"only the model's own {family.name} layers are taken over"
    layers = tuple(_planned(family, names, conv, reason) for names, conv in find_convolutions(model).values())
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


def _stage_refusals(model: nn.Module, last_stages: int, input_size: Sequence[int] | None) -> dict[str, str]:
    try:
        count = check_positive("`last_stages`", last_stages)
    except ValueError as error:
        raise ConversionError(str(error)) from None
    convolutions = {name: conv for name, (_, conv) in find_convolutions(model).items()}
    return stage_refusals(model, convolutions, count, input_size)


def _apply_position(layers: list[PlannedLayer], position: slice | None) -> list[PlannedLayer]:
    if position is None:
        return layers
    if not isinstance(position, slice):
        raise TypeError(f"`position` must be a slice, such as slice(-10, None) for the last ten; got {position!r}.")
    selected = {layer.names for layer in [layer for layer in layers if layer.converts][position]}
    return [
        layer
        if not layer.converts or layer.names in selected
        else dataclasses.replace(layer, reason="outside the position", dynamic_params=layer.static_params, note="")
        for layer in layers
    ]


def _share(
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
    convolutions: dict[str, Any] = {layer.name: model.get_submodule(layer.name) for layer in layers if layer.converts}
    first = first_of_block(convolutions) if by_block else {}
    if (family.sharing is None and not first) or not convolutions:
        return layers
    try:
        further = {name: _context_options(convolutions, first.get(name)) for name in convolutions}
        if family.sharing is not None:
            shared = family.sharing.options(model, convolutions, hyperparameters)
            further = {name: {**further[name], **shared[name]} for name in convolutions}
        options = {name: {**hyperparameters, **further[name]} for name in convolutions}
        dynamic = {name: _like_on_meta(family, conv, options[name]) for name, conv in convolutions.items()}
        family.join(list(dynamic.values()))
    except ValueError as error:
        raise ConversionError(str(error)) from error
    weights = {name: conv.weight for name, conv in convolutions.items()}
    errors = {} if family.sharing is None else family.sharing.errors(options, weights)
    return [
        dataclasses.replace(
            layer,
            note=", ".join([layer.note] * bool(layer.note) + _context_note(layer.name, first.get(layer.name))),
            options=further[layer.name],
            dynamic_params=sum(parameter.numel() for parameter in dynamic[layer.name].parameters()),
            relative_error=errors.get(layer.name),
        )
        if layer.converts
        else layer
        for layer in layers
    ]


def _context_options(convolutions: Mapping[str, Any], first: str | None) -> dict[str, Any]:
    """Return the options of a convolution that shares the context of the one named ``first``; None: its own."""
    return {} if first is None else {"context_features": convolutions[first].in_channels, "shared_context": first}


def _context_note(name: str, first: str | None) -> list[str]:
    if first is None:
        return []
    return ["computes the context of its block"] if name == first else [f"context of {first}"]


def _like_on_meta(family: Family, conv: Any, hyperparameters: Mapping[str, Any]) -> DynamicConv:
    """Return the family's layer for a convolution, on the meta device."""
    kind = family.layer_for(conv)
    options = {"bias": conv.bias is not None, "device": "meta", "dtype": conv.weight.dtype}
    return kind.like(kind.static_class()(**conv_arguments(conv), **options), **hyperparameters)


def _try_family(family: Family, conv: _ConvNd, hyperparameters: Mapping[str, Any]) -> tuple[str | None, int, str]:
    """Return why the family does not support a convolution, or None, and its layer's parameter count and note."""
    if not conv.weight.dtype.is_floating_point:
        return f"its dtype is {conv.weight.dtype}", 0, ""
    try:
        layer = _like_on_meta(family, conv, hyperparameters)
    except (ValueError, TypeError) as error:
        return str(error).rstrip("."), 0, ""
    return None, sum(parameter.numel() for parameter in layer.parameters()), layer.conversion_note


def _layer_name(family: Family, conv: _ConvNd) -> str:
    try:
        return family.layer_for(conv).__name__
    except TypeError:
        return "dynamic layer"


def _family(family: str) -> Family:
    try:
        return get_family(family)
    except ValueError as error:
        raise ConversionError(str(error)) from None


def _check_hyperparameters(family: Family, hyperparameters: Mapping[str, Any]) -> None:
    layer = family.layer
    layer_options = [
        name for name, value in inspect.signature(layer).parameters.items() if value.kind is value.KEYWORD_ONLY
    ]
    convert_options = [
        name for name, value in inspect.signature(convert).parameters.items() if value.kind is value.KEYWORD_ONLY
    ]
    for name in hyperparameters:
        if name == "shared_context" and hyperparameters[name] is not None:
            raise ConversionError("`shared_context` follows from the blocks of the network; pass context='block'.")
        if name == "context_features" and hyperparameters[name] is not None:
            raise ConversionError(
                "`context_features` needs a network that calls layer(x, context); leave it out, pass context='block', "
                "or build the layers into the network yourself."
            )
        if name not in layer_options:
            near = nearest_names(name, [*layer_options, *convert_options], count=1)[0]
            raise ConversionError(
                f"{layer.__name__} has no hyperparameter {name!r}; it takes {', '.join(sorted(layer_options))}, "
                f"and the nearest name is {near!r}."
            )


def _check_model(model: nn.Module, *, again: bool) -> None:
    for wrapper in ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "OptimizedModule"):
        if type(model).__name__ == wrapper:
            raise ConversionError(f"the model is wrapped in {wrapper}; convert the model before you wrap it.")
    if isinstance(model, torch.jit.ScriptModule):
        raise ConversionError(
            "the model is a TorchScript program, which has no modules to replace; convert the Python model."
        )
    lazy = first_lazy(model)
    if lazy is not None:
        raise ConversionError(f"{lazy!r} has no size yet; run the network once before you convert it.")
    dynamic = [name for name, module in model.named_modules() if isinstance(module, DynamicConv)]
    if dynamic and not again:
        raise ConversionError(
            f"the model is already converted: {len(dynamic)} of its layers are dynamic, the first is {dynamic[0]!r}; "
            f"convert the static network, which revert returns before training, or set `again` to convert more."
        )


def _as_kernel_sizes(given: int | Iterable[int]) -> tuple[int, ...]:
    sizes = (given,) if isinstance(given, int) else tuple(given)
    if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ConversionError(f"`kernel_sizes` must be one or several positive side lengths in pixels; got {given!r}.")
    return sizes


def _nothing_to_convert(plan: ConversionPlan) -> str:
    if not plan.layers:
        return "there is nothing to convert: the model has no static convolution."
    reasons = Counter(layer.reason for layer in plan.layers).most_common(3)
    why = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    return f"there is nothing to convert to {plan.family}: all {len(plan.layers)} convolutions stay static ({why})."
