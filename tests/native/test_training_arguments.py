"""The training operators refuse arguments that do not match, which would read other memory."""

from collections.abc import Callable

import pytest
import torch

from dynaconv.native import accelerate_training


def channels_last(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes).contiguous(memory_format=torch.channels_last)


def damaged(name: str) -> Callable[[], object]:
    x, out, kernels = torch.randn(2, 4, 5, 5), torch.empty(2, 8, 3, 3), torch.randn(2 * 9 * 4 * 8)
    coefficients = [torch.randn(2, 2), *(torch.empty(0),) * 3]
    sizes = [3, 3, 1, 1, 0, 0, 1, 1]
    image, context = channels_last(2, 8, 5, 5), torch.randn(2, 4)
    branch = [torch.randn(*shape) for shape in ((6, 4), (8, 6), (9, 6), (8, 3), (8, 3))]
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
        branch[1] = torch.randn(8, 5)
    elif name == "image":
        image = torch.randn(2, 8, 5, 5)
    elif name == "context":
        context = torch.randn(3, 4)
    elif name == "averaged":
        context = torch.empty(0)
    elif name == "running":
        context, branch[0], running = torch.empty(0), torch.randn(6, 8), running[:2]
    if name in ("head", "image", "context", "averaged", "running"):
        settings = [1.0, 1.0, 1.0, 0.1, 1e-5]
        return lambda: torch.ops.dynaconv.dcd_prepare(image, context, branch, running, settings, [1, 1, 0, 0, 5, 5, 1])
    if name in ("channel", "kernel"):
        parts = [torch.randn(5, 2), torch.randn(5, 3) if name == "channel" else torch.empty(0), torch.empty(0)]
        kernel = torch.empty(5, 4, 2 if name == "kernel" else 3)
        return lambda: torch.ops.dynaconv.kernel_mix(torch.randn(2, 4, 3), parts, kernel)
    return lambda: torch.ops.dynaconv.mixture_conv(x, kernels, coefficients, out, sizes)


DAMAGES = [
    *("kernels", "coefficients", "attention", "sizes", "output", "dtype", "channel", "kernel"),
    *("head", "image", "context", "averaged", "running"),
]


@pytest.mark.parametrize("name", DAMAGES)
def test_operators_refuse_arguments_that_do_not_match(name: str) -> None:
    assert accelerate_training()
    with pytest.raises(RuntimeError):
        damaged(name)()
