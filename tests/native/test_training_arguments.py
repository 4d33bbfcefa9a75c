"""The training operators refuse arguments that do not match, which would read other memory."""

from collections.abc import Callable

import pytest
import torch

from dynaconv.native import accelerate_training


def channels_last(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes).contiguous(memory_format=torch.channels_last)


OF_LAYER = ["head", "weight", "formed", "small", "image", "context", "averaged", "running"]
OF_LAYER_GRADIENTS = ["memory", "layer's output", "gradient"]
OF_PATCHES = ["patches of apart channels", "rows", "format", "found"]


def damaged(name: str) -> Callable[[], object]:
    x, out, kernels = torch.randn(2, 4, 5, 5), torch.empty(2, 8, 3, 3), torch.randn(2 * 9 * 4 * 8)
    coefficients = [torch.randn(2, 2), *(torch.empty(0),) * 3]
    sizes = [3, 3, 1, 1, 0, 0, 1, 1]
    image, context = channels_last(2, 8, 5, 5), torch.randn(2, 4)
    layer = [torch.randn(*shape) for shape in ((8, 8, 3, 3), (6, 4), (8, 6), (9, 6), (8, 3), (8, 3))]
    layer_sizes = [1, 1, 1, 1, 1, 1, 0, 0]
    running = [torch.zeros(8), torch.ones(8), torch.zeros((), dtype=torch.long)]
    if name == "kernels":
        kernels = kernels[1:]
    elif name == "coefficients":
        coefficients = coefficients[:3]
    elif name == "attention":
        coefficients[0] = torch.randn(3, 2)
    elif name == "sizes":
        sizes = sizes[:6]
    elif name == "output":
        out = torch.empty(2, 8, 4, 3)
    elif name == "dtype":
        x = x.double()
    elif name == "head":
        layer[2] = torch.randn(8, 5)
    elif name == "weight":
        layer[0] = torch.randn(8, 16, 3, 3)
    elif name == "formed":
        layer_sizes[6] = 1
    elif name == "small":
        layer_sizes[2:6] = [0, 0, 3, 1]
    elif name == "image":
        image = torch.randn(2, 8, 5, 5)
    elif name == "context":
        context = torch.randn(3, 4)
    elif name == "averaged":
        context = None
    elif name == "running":
        context, layer[1], running = None, torch.randn(6, 8), running[:2]
    settings = [1.0, 1.0, 1.0, 0.1, 1e-5]
    if name in OF_LAYER:
        return lambda: torch.ops.dynaconv.dcd_layer(image, context, layer, running, settings, layer_sizes)
    if name in OF_LAYER_GRADIENTS:
        kept, result = torch.ops.dynaconv.dcd_layer(image, context, layer, running, settings, layer_sizes)[::-1]
        gradient, result = {
            "memory": (result, result),
            "layer's output": (result, channels_last(2, 8, 4, 5)),
            "gradient": (channels_last(2, 8, 4, 5), result),
        }[name]
        kept = kept[1:] if name == "memory" else kept
        return lambda: torch.ops.dynaconv.dcd_layer_gradients(
            image, context, layer, settings, layer_sizes, kept, result, gradient, True
        )
    if name in OF_PATCHES:
        if name == "patches of apart channels":
            return lambda: torch.ops.dynaconv.mixture_patches(x, coefficients, sizes)
        coefficients[0] = torch.randn(2, 2)
        rows = torch.empty(2 * 9, 2 * 9 * (7 if name == "rows" else 8))
        to_x = torch.empty(2, 8, 5, 5) if name == "format" else torch.empty_like(image)
        found = coefficients[:3] if name == "found" else coefficients
        return lambda: torch.ops.dynaconv.mixture_patches_gradients(image, coefficients, rows, to_x, found, sizes)
    if name in ("channel", "kernel"):
        parts = [torch.randn(5, 2), torch.randn(5, 3) if name == "channel" else torch.empty(0), torch.empty(0)]
        kernel = torch.empty(5, 4, 2 if name == "kernel" else 3)
        return lambda: torch.ops.dynaconv.kernel_mix(torch.randn(2, 4, 3), parts, kernel)
    return lambda: torch.ops.dynaconv.mixture_conv(x, kernels, coefficients, out, sizes)


DAMAGES = [
    *("kernels", "coefficients", "attention", "sizes", "output", "dtype", "channel", "kernel"),
    *OF_LAYER,
    *OF_LAYER_GRADIENTS,
    *OF_PATCHES,
]


@pytest.mark.parametrize("name", DAMAGES)
def test_operators_refuse_arguments_that_do_not_match(name: str) -> None:
    assert accelerate_training()
    with pytest.raises(RuntimeError):
        damaged(name)()
