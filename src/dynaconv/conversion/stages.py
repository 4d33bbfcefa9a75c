"""Stages of a network: groups of layers whose feature maps have about the same size."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.example import eval_mode, examples, input_form, run_first, temporary_hooks
from dynaconv.conversion.kinds import Static
from dynaconv.errors import ConversionError


def stage_refusals(
    model: nn.Module, layers: Mapping[str, Static], last: int, input_size: Sequence[int] | None = None
) -> dict[str, str]:
    """Return why layers are not in the last stages, by name; those in the last stages are left out.

    A stage is as many halvings of the side length away from the smallest feature map, rounded. The model runs once in
    eval mode on random images. Layers of a single position, which read pooled features, count as part of the last
    stage and do not define it. A linear layer's positions are all axes between batch and features; their number gives
    the side length of an image, or of what else the network's first convolution reads.

    Args:
        model: A network.
        layers: Its convolutions and linear layers by name.
        last: Number of stages.
        input_size: Size of the images; None for one that the model accepts.

    Raises:
        ConversionError: The model does not run on images of this size, or calls no layer.
    """
    sizes = _output_sizes(model, layers, input_size)
    if not sizes:
        raise ConversionError("`last_stages` counts sizes of feature maps, but the model calls no layer that has one.")
    dims = input_form(model)[0]
    axes = {name: dims if isinstance(layers[name], nn.Linear) else max(len(size), 1) for name, size in sizes.items()}
    sides = {name: math.prod(size) ** (1 / axes[name]) for name, size in sizes.items()}
    smallest = min((side for side in sides.values() if side > 1), default=1.0)
    what = "the last stage" if last == 1 else f"the last {last} stages"
    refusals = dict.fromkeys(layers.keys() - sizes.keys(), f"the model did not call it, so it is not in {what}")
    for name, side in sides.items():
        if round(math.log2(side / smallest)) >= last:
            refusals[name] = f"its output of {'x'.join(map(str, sizes[name]))} is not in {what}"
    return refusals


def _output_sizes(
    model: nn.Module, layers: Mapping[str, Static], input_size: Sequence[int] | None
) -> dict[str, tuple[int, ...]]:
    """Return the size of each called layer's output, the largest if there are several."""

    def run(args: tuple[Any, ...]) -> dict[str, tuple[int, ...]]:
        sizes: dict[str, tuple[int, ...]] = {}
        hooks = (layer.register_forward_hook(_size_hook(sizes, name)) for name, layer in layers.items())
        with temporary_hooks(hooks), eval_mode(model), torch.no_grad():
            model(*args)
        return sizes

    purpose = "`last_stages` counts sizes of feature maps, for which the model must run once"
    return run_first(examples(model, input_size, None), run, purpose, "Pass input_size=(B, C, H, W).")


def _size_hook(sizes: dict[str, tuple[int, ...]], name: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() > 1:
            size = tuple(output.shape[1:-1] if isinstance(module, nn.Linear) else output.shape[2:])
            sizes[name] = max(sizes.get(name, size), size, key=math.prod)

    return hook
