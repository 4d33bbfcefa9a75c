"""Plan a conversion and carry it out."""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from dynaconv.conversion.adopt import find_adoptable
from dynaconv.conversion.candidates import layer_options
from dynaconv.conversion.eligibility import first_lazy
from dynaconv.conversion.kinds import KINDS
from dynaconv.conversion.plan import ConversionPlan
from dynaconv.conversion.planning import (
    adoption_plan,
    apply_position,
    check_options_act,
    nothing_to_convert,
    plan_layers,
    refusals_by_stage,
    share,
)
from dynaconv.conversion.select import Pattern, Predicate, Selection, as_kinds, as_patterns
from dynaconv.errors import ConversionError, nearest_names, received
from dynaconv.families import DeployedLayer, DynamicLayer, Family, get_family
from dynaconv.families.contract.checks import as_sizes, check_choice, check_module
from dynaconv.families.family import Kind


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
    """Plan which convolutions and linear layers of a network to make dynamic. The model is not changed.

    These stay static, and the plan says why: the stem (the convolutions that read the image), channel-attention gates,
    blocks that merge their kernels later, convolutions whose weight is shared or computed, and those that the family
    does not support. A stem that ``include`` names in full is converted. Linear layers stay static unless ``kinds`` has
    ``linear``; then the plan lists them too.

    If the model has layers of the family from another package, as timm's ``tf_efficientnet_cc_b0_4e`` has of CondConv,
    these become layers of this package, with their weights, and everything else stays static.

    Args:
        model: Any network with convolutions of torch in one, two or three dimensions, also transposed ones.
        family: Name of the family: condconv, dcd, dyconv, fdconv, kernel_warehouse, odconv, se, or one from another
            package.
        include, exclude: Full module names, shell-style patterns (``*`` also matches dots) or compiled regular
            expressions.
        kinds: Any of pointwise, depthwise, grouped, spatial, transposed and linear; by default those of the family: all
            but linear, for dcd and se also without depthwise, for fdconv pointwise and spatial. A linear layer, of a
            family that has one, has one matrix for each sample of ``(B, ..., C)``, by the mean over all axes between.
        kernel_sizes: Side lengths of the kernels to convert; by default all that the family supports.
        min_channels, max_channels: Bounds of ``min(in_channels, out_channels)``; by default none, for fdconv at least
            17 channels.
        last_stages: Number of stages at the end whose convolutions are converted; a stage ends where the feature maps
            become smaller by half. For example, 2 selects the layers of 14x14 and 7x7 pixels in a ResNet for 224x224.
            The model runs once to find them, in eval mode on random images.
        position: Slice of the layers that meet all other conditions, in module order; ``slice(-10, None)`` selects the
            last ten.
        predicate: Further condition, called with the name and the static layer.
        input_size: ``(C, H, W)`` or ``(B, C, H, W)`` of these images; None: one that the model accepts.
        again: Allow a model that already has dynamic layers; those do not change.
        context: ``block``: the layers of a block read one context, the averaged input of its first layer, which that
            layer passes on in each forward pass. A block is a module around several converted layers, convolutions or
            linear, that holds no smaller block. None: each layer reads its own averaged input.
        hyperparameters: Keyword-only arguments of the family's layer; linear layers get those that they have.

    Raises:
        ConversionError: The family or a hyperparameter is unknown, a pattern matches no convolution, no convolution is
            left to convert, a layer named in full cannot be converted, an argument has no effect, or the model is
            already dynamic or deployed.
        TypeError: An argument is of the wrong type.
    """
    check_module(model)
    chosen = _family(family)
    _check_hyperparameters(chosen, hyperparameters)
    check_choice("`context`", context, ("block", None), error=ConversionError)
    if predicate is not None and not callable(predicate):
        raise TypeError(f"`predicate` must be a function of name and layer; got {received(predicate)}.")
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
    selection = dataclasses.replace(
        named,
        kinds=chosen.kinds if kinds is None else named.kinds,
        kernel_sizes=chosen.kernel_sizes if kernel_sizes is None else named.kernel_sizes,
        min_channels=chosen.min_channels if min_channels is None else min_channels,
    )
    selection.check_patterns(model)
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
        return adoption_plan(model, chosen, adoptable)
    stages = {} if last_stages is None else refusals_by_stage(model, selection, last_stages, input_size)
    layers = plan_layers(model, chosen, selection, named, hyperparameters, stages)
    layers = apply_position(layers, position)
    layers = share(model, chosen, layers, hyperparameters, by_block=context == "block")
    plan = ConversionPlan(
        family=chosen.name,
        hyperparameters=dict(hyperparameters),
        layers=tuple(layers),
        params=sum(parameter.numel() for parameter in model.parameters()),
    )
    if not plan.converted:
        raise ConversionError(nothing_to_convert(plan))
    check_options_act(model, chosen, plan)
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
    """Make convolutions, and linear layers on request, of a network dynamic without changing its function.

    Each dynamic layer takes over the arguments, weights, dtype, device, memory format, ``requires_grad``, mode and
    hooks of its static layer. In eval mode the outputs are those of ``model``, up to rounding, until the network is
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


def _family(family: str) -> Family:
    try:
        return get_family(family)
    except ValueError as error:
        raise ConversionError(str(error)) from None


def _check_hyperparameters(family: Family, hyperparameters: Mapping[str, Any]) -> None:
    layer = family.layer
    known = layer_options(layer)
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
        if name not in known:
            near = nearest_names(name, [*known, *convert_options], count=1)[0]
            raise ConversionError(
                f"{layer.__name__} has no hyperparameter {name!r}; it takes {', '.join(sorted(known))}, "
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
    deployed = next((name for name, module in model.named_modules() if isinstance(module, DeployedLayer)), None)
    if deployed is not None:
        raise ConversionError(
            f"the model was deployed (see {deployed!r}), and folding cannot be undone; convert the network that it was "
            f"made from."
        )
    dynamic = [name for name, module in model.named_modules() if isinstance(module, DynamicLayer)]
    if dynamic and not again:
        raise ConversionError(
            f"the model is already converted: {len(dynamic)} of its layers are dynamic, the first is {dynamic[0]!r}; "
            f"convert the static network, which revert returns before training, or set `again` to convert more."
        )


def _as_kernel_sizes(given: int | Iterable[int]) -> tuple[int, ...]:
    sizes = as_sizes(given if isinstance(given, Iterable) else (given,))
    if not sizes:
        raise ConversionError(
            f"`kernel_sizes` must be one or several positive side lengths in pixels; got {received(given)}."
        )
    return sizes
