"""Replaces dynamic layers by static ones that have the mean of their kernels over a data set."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.copying import copied
from dynaconv.conversion.example import eval_mode, temporary_hooks
from dynaconv.conversion.select import Pattern, as_patterns, matches
from dynaconv.conversion.swap import all_names, restore_static
from dynaconv.errors import ConversionError, counted, listed, nearest_names
from dynaconv.families import DynamicLayer
from dynaconv.families.contract.checks import check_integer, check_module

_MAX_NUMBERS = 2**24
"""Maximum number of elements of the kernels that are formed at once."""


@dataclass(eq=False)
class KernelMean:
    """Mean kernel and bias of one layer over all its inputs, in float64.

    Attributes:
        kernel: E W(x), with the shape of one sample's kernel.
        bias: Mean of the sample biases, ``(C_out,)``; None if the layer adds none.
        squares: Sum of ||W(x) - E W||^2 over the inputs.
        count: Number of inputs.
        input_alone: Whether the layer was called with its input alone, without a context or a mask.
    """

    kernel: Tensor
    bias: Tensor | None = None
    squares: float = 0.0
    count: int = 0
    input_alone: bool = True

    def add(self, kernels: Tensor, biases: Tensor | None) -> None:
        """Add the kernels ``(B, ...)`` and biases ``(B, C_out)`` of a batch."""
        kernels = kernels.double()
        # Sum squares about the batch's own mean, then merge: a difference of two large sums would lose precision.
        own, before = kernels.mean(0), self.count
        self.count += len(kernels)
        share, step = len(kernels) / self.count, own - self.kernel
        self.squares += float((kernels - own).square().sum()) + float(step.square().sum()) * before * share
        self.kernel = self.kernel + step * share
        if biases is not None:
            mean = biases.double().mean(0)
            self.bias = mean if self.bias is None else self.bias + (mean - self.bias) * share


def freeze(
    model: nn.Module,
    names: Pattern | Iterable[Pattern],
    data: Tensor | Iterable[Any],
    *,
    max_batches: int | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Make some dynamic layers of a network static: their kernel and bias become the means over a data set.

    The other layers stay dynamic. `dynaconv.explain.freezing.rank_layers` and ``dynaconv analyze`` show how much the
    accuracy depends on each layer's branch, so which layers to freeze.

    The frozen kernel is E W(x). In CondConv, DY-Conv, DCD and SE the kernel is linear in the coefficients, so E W(x) is
    also the kernel at the mean coefficients. In ODConv, whose attentions multiply each other, it is not. The frozen
    layer is an ordinary `torch.nn.Conv2d` or `torch.nn.Linear`; one that the network calls with a context or a mask has
    a hook that leaves these out. It computes the function of the dynamic layer exactly
    if the coefficients do not depend on the input, as in `revert`.

    Args:
        model: A network with dynamic layers. It runs in eval mode; its state and mode do not change.
        names: Full names of dynamic layers, shell-style patterns (``*`` also matches dots) or compiled regular
            expressions.
        data: Batches of images, or tuples that begin with them, such as those of a data loader; or one batch.
        max_batches: Maximum number of batches; None for all.
        inplace: Change ``model`` itself instead of a copy.

    Returns:
        The network; ``model`` itself if ``inplace``.

    Raises:
        ConversionError: A pattern matches no dynamic layer, a layer shares its stored kernel with one that stays
            dynamic or modulates its input, no batch reached a layer, a mean kernel is not finite, the model cannot be
            copied, or it is itself a layer and ``inplace`` is set; the model is then unchanged.
        TypeError: ``model`` is not a module, ``names`` are no patterns, or ``data`` holds something else than images.
        ValueError: ``max_batches`` is less than 1.

    Reference: He et al., PAD-Net, ACL 2023, arXiv:2211.05528v4, finds that a network of which a part is dynamic can be
    more accurate than one that is fully dynamic. It chooses single parameters; this function takes whole layers.
    """
    check_module(model)
    layers = _selected(model, as_patterns("names", names, optional=False))
    if "" in layers.values() and inplace:
        raise ConversionError("the model is itself a layer, which cannot be replaced in place; leave `inplace` out.")
    _check_freezable(model, layers)
    means = kernel_means(model, layers, data, max_batches=max_batches)
    unreached = [name for layer, name in layers.items() if layer not in means]
    if unreached:
        raise ConversionError(
            f"no batch reached {listed(unreached[:3])}, so {'its' if len(unreached) == 1 else 'their'} mean kernel is "
            f"unknown; give images, and freeze only layers that the network calls."
        )
    infinite = [name for layer, name in layers.items() if not means[layer].kernel.isfinite().all()]
    if infinite:
        raise ConversionError(
            f"the mean kernel of {listed(infinite[:3])} is not finite; look for NaN in `data` and in the weights."
        )
    return freeze_at(model, layers, means, inplace=inplace)


def freeze_at(
    model: nn.Module, layers: Mapping[Any, str], means: Mapping[Any, KernelMean], *, inplace: bool = False
) -> nn.Module:
    """Return the network with some layers static, at mean kernels that are known; see `freeze`.

    Args:
        model: The network.
        layers: Dynamic layers to freeze, and their names.
        means: What `kernel_means` returned for these layers, and maybe others.
        inplace: Change ``model`` itself instead of a copy.

    Raises:
        ConversionError: See `freeze`.
    """
    _check_freezable(model, layers)
    static: dict[str, nn.Module] = {
        name: layer.static_with(means[layer].kernel, means[layer].bias) for layer, name in layers.items()
    }
    for layer, name in layers.items():
        if not means[layer].input_alone:
            static[name].register_forward_pre_hook(input_alone, with_kwargs=True)
    if "" in static:
        return static[""]
    target = model if inplace else copied(model)
    names_of = all_names(target)
    for name, conv in static.items():
        restore_static(target, tuple(names_of[target.get_submodule(name)]), conv)
    return target


def kernel_means(
    model: nn.Module,
    layers: Mapping[Any, str],
    data: Tensor | Iterable[Any],
    *,
    max_batches: int | None = None,
) -> dict[Any, KernelMean]:
    """Return the mean kernel of layers over a data set, in the order of execution; without layers that are not called.

    Args:
        model: A network. It runs in eval mode; its state does not change.
        layers: Dynamic layers of the network, and their names.
        data: Batches of images, or tuples that begin with them; or one batch.
        max_batches: Maximum number of batches; None for all.
    """
    means: dict[Any, KernelMean] = {}

    def add(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = module.call_arguments(*args, **kwargs)
        size = len(inputs[0])
        chunk = max(1, _MAX_NUMBERS // module.weight.numel()) if inputs[0].dim() > 1 else max(1, size)
        for start in range(0, size, chunk):
            part = [None if given is None else given[start : start + chunk] for given in inputs]
            kernels, biases = module.kernel(*part), module.sample_bias(*part)
            if len(kernels):
                mean = means.setdefault(module, KernelMean(torch.zeros_like(kernels[0], dtype=torch.float64)))
                mean.add(kernels, biases)
                mean.input_alone &= len(args) + len(kwargs) == 1

    hooks = (layer.register_forward_pre_hook(add, with_kwargs=True) for layer in layers)
    device = next(model.parameters()).device
    with temporary_hooks(hooks), eval_mode(model), torch.no_grad():
        for images in _images(data, max_batches):
            model(images.to(device))
    return means


def input_alone(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Leave out the context and the mask that the network gives to a layer that was dynamic; an output size stays."""
    with_size = len(args) > 1 and isinstance(args[1], list | tuple)
    return args[: 1 + with_size], {name: value for name, value in kwargs.items() if name == "output_size"}


def _check_freezable(model: nn.Module, layers: Mapping[Any, str]) -> None:
    """Raise ConversionError if a layer cannot become static while the others stay dynamic."""
    for layer, name in layers.items():
        if (reason := layer.freezing_refusal()) is not None:
            raise ConversionError(f"{name or 'the layer'!r} cannot be frozen: {reason}.")
    _check_sharing(model, layers)


def _check_sharing(model: nn.Module, layers: Mapping[DynamicLayer, str]) -> None:
    """Raise ConversionError if a layer shares its stored kernel with one that stays dynamic, or computes its context.

    One of those that share parameters owns them, and a record of the conversion rebuilds them from all of these layers.
    """
    contexts = {id(layer.block_context): name for layer, name in layers.items() if not layer.place_in_block}
    frozen = {id(layer.stored_kernel): name for layer, name in layers.items()}
    for name, layer in model.named_modules():
        if isinstance(layer, DynamicLayer) and layer not in layers and id(layer.stored_kernel) in frozen:
            raise ConversionError(
                f"{frozen[id(layer.stored_kernel)]!r} shares the parameters of its kernel with {name!r}, which would "
                f"stay dynamic; freeze all layers that share them, or none."
            )
        if isinstance(layer, DynamicLayer) and layer not in layers and layer.block_context is not None:
            first = contexts.get(id(layer.block_context))
            if first is not None:
                raise ConversionError(
                    f"{first!r} computes the context of {name!r}, which would stay dynamic; freeze all layers of the "
                    f"block, or leave the first one dynamic."
                )


def _images(data: object, max_batches: int | None) -> Iterator[Tensor]:
    if max_batches is not None:
        check_integer("max_batches", max_batches)
    batches = (data,) if isinstance(data, Tensor) else data
    if not isinstance(batches, Iterable):
        raise TypeError(f"`data` must be batches of images, or one batch; got {type(data).__name__}.")
    for batch in islice(batches, max_batches):
        images = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(images, Tensor):
            raise TypeError(f"a batch must be images, or a tuple that begins with them; got {type(batch).__name__}.")
        yield images


def _selected(model: nn.Module, patterns: tuple[Pattern, ...]) -> dict[DynamicLayer, str]:
    """Return the dynamic layers with a name that matches a pattern, and their first names."""
    names = {layer: several for layer, several in all_names(model).items() if isinstance(layer, DynamicLayer)}
    if not names:
        raise ConversionError("the model has no dynamic layer, so there is nothing to freeze.")
    known = [name for several in names.values() for name in several]
    for pattern in patterns:
        if not any(matches(pattern, name) for name in known):
            shown = pattern if isinstance(pattern, str) else pattern.pattern
            raise ConversionError(
                f"no dynamic layer matches names={shown!r}; the model has {counted(len(names), 'dynamic layer')}, the "
                f"nearest name is {listed(nearest_names(shown, known, count=1))}."
            )
    return {
        layer: several[0]
        for layer, several in names.items()
        if any(matches(pattern, name) for pattern in patterns for name in several)
    }
