"""What the dynamics of each layer are worth: accuracy and predictions with the layer frozen at its mean kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.example import eval_mode
from dynaconv.conversion.freeze import input_alone
from dynaconv.explain.movement import dynamic_layers, labelled, movement_of, reached_means
from dynaconv.families import DynamicLayer

HEADER = ("layer", "accuracy lost", "points", "changed", "kernel movement")


@dataclass(frozen=True, kw_only=True)
class FrozenEffect:
    """Difference that freezing makes on the images.

    Attributes:
        name: Name of the frozen layer; "all" if every layer is frozen.
        images: Number of images.
        lost: Number of images that only the unfrozen network classifies correctly.
        gained: Number of images that only the frozen network classifies correctly.
        changed: Number of images whose prediction differs.
        movement: Relative standard deviation of the layer's kernel, see `dynaconv.explain.movement`; None for "all".
    """

    name: str
    images: int
    lost: int
    gained: int
    changed: int
    movement: float | None

    @property
    def cost(self) -> float:
        """Accuracy that freezing costs, -1 to 1; negative if the frozen network is more accurate."""
        return (self.lost - self.gained) / self.images

    def cells(self) -> list[str]:
        """Return the row of the table, see `HEADER`."""
        movement = "" if self.movement is None else f"{self.movement:.1%}"
        net = f"{self.lost} - {self.gained} of {self.images:,}"
        return [self.name, net, f"{100 * self.cost:+.2f}", f"{self.changed / self.images:.1%}", movement]


@dataclass(frozen=True, kw_only=True)
class FreezingRanking:
    """Layers of a network by what freezing each of them alone costs.

    Attributes:
        layers: The layers, the most costly to freeze first: by accuracy, then by changed predictions.
        all_frozen: The effect of freezing all of them at once.
    """

    layers: tuple[FrozenEffect, ...]
    all_frozen: FrozenEffect

    @property
    def movement(self) -> float | None:
        """Mean of the layers' kernel movement; None if there is no layer."""
        return sum(layer.movement or 0.0 for layer in self.layers) / len(self.layers) if self.layers else None

    def rows(self) -> list[list[str]]:
        """Return the rows of the table, the row of all layers last."""
        return [effect.cells() for effect in (*self.layers, self.all_frozen)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"layers": [asdict(effect) for effect in self.layers], "all": asdict(self.all_frozen)}


@torch.no_grad()
def rank_layers(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, max_batches: int | None = None
) -> FreezingRanking:
    """Rank the dynamic layers of a classifier by what freezing their branch at its mean costs in accuracy.

    A layer is frozen as `dynaconv.freeze` does it, at its mean kernel over the same images, while all others stay
    dynamic. Layers at the end of the ranking are those to freeze. The costs of several layers do not add up; after a
    choice, evaluate the frozen network on images that were not used for it. Layers that `dynaconv.freeze` refuses, as
    FDConv with band modulation, are left out, also where all are frozen.

    Args:
        model: A network that returns logits ``(B, num_classes)``. It runs in eval mode; its state does not change.
        batches: Pairs (images, classes). They are iterated twice; the second time, the network runs once for each
            dynamic layer.
        max_batches: Maximum number of batches; None for all.

    Raises:
        ValueError: The model has no `dynaconv.DynamicLayer`, or no batch reached one.
    """
    layers: dict[Any, str] = {
        layer: name for layer, name in dynamic_layers(model).items() if isinstance(layer, DynamicLayer)
    }
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layer to freeze: none of its dynamic layers is a DynamicLayer."
        )
    layers = {layer: name for layer, name in layers.items() if layer.freezing_refusal() is None}
    means = reached_means(model, layers, batches, max_batches) if layers else {}
    frozen = {layer: layer.static_with(mean.kernel, mean.bias).eval() for layer, mean in means.items()}  # type: ignore[operator]
    variants: dict[str, Mapping[nn.Module, nn.Module]] = {layers[layer]: {layer: frozen[layer]} for layer in frozen}
    counts = {name: [0, 0, 0] for name in (*variants, None)}
    images = 0
    device = next(model.parameters()).device
    with eval_mode(model):
        for inputs, classes in labelled(batches, max_batches):
            inputs, classes = inputs.to(device), classes.to(device)
            before = model(inputs).argmax(1)
            images += len(inputs)
            for name, replaced in (*variants.items(), (None, frozen)):
                with _replaced(replaced):
                    after = model(inputs).argmax(1)
                right, still_right = before == classes, after == classes
                for slot, hits in enumerate((right & ~still_right, ~right & still_right, before != after)):
                    counts[name][slot] += int(hits.sum())
    effects = [
        _effect(layers[layer], images, counts[layers[layer]], movement_of(mean)) for layer, mean in means.items()
    ]
    effects.sort(key=lambda effect: (-effect.cost, -effect.changed))
    return FreezingRanking(layers=tuple(effects), all_frozen=_effect("all", images, counts[None], None))


def _effect(name: str, images: int, counts: list[int], movement: float | None) -> FrozenEffect:
    lost, gained, changed = counts
    return FrozenEffect(name=name, images=images, lost=lost, gained=gained, changed=changed, movement=movement)


def _frozen_forward(layer: Any, static: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if layer.block_context is not None:
        # Other layers may read the context that this one computes.
        layer.pass_context_on(*args, **kwargs)
    own, further = input_alone(static, args, kwargs)
    return static(*own, **further)


@contextmanager
def _replaced(layers: Mapping[nn.Module, nn.Module]) -> Iterator[None]:
    """Let each of the layers compute what its static counterpart computes."""
    with ExitStack() as stack:
        for layer, static in layers.items():
            stack.callback(vars(layer).pop, "forward")
            vars(layer)["forward"] = partial(_frozen_forward, layer, static)
        yield
