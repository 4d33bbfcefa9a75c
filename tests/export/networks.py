"""Small networks to export."""

from pathlib import Path
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from tests.helpers import LAYERS

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # Name: family, convolution arguments, hyperparameters.
    "dcd": ("dcd", {"kernel_size": 1}, {}),
    "dcd-3x3-stride": ("dcd", {"kernel_size": 3, "stride": 2, "padding": 1}, {}),
    "dcd-joint": ("dcd", {"kernel_size": 3, "padding": 1}, {"fusion": "joint"}),
    "dcd-depthwise": ("dcd", {"kernel_size": 3, "padding": 1, "groups": 8}, {}),
    "dcd-batch-norm": ("dcd", {"kernel_size": 1}, {"norm": "batch"}),
    "condconv": ("condconv", {"kernel_size": 3, "padding": 1}, {"num_experts": 3}),
    "dyconv": ("dyconv", {"kernel_size": 3, "padding": 1, "groups": 2}, {}),
    "odconv": ("odconv", {"kernel_size": 3, "padding": 1}, {"num_kernels": 2}),
    "se": ("se", {"kernel_size": 3, "stride": 2}, {}),
}


def tiny(case: str) -> nn.Module:
    """A static stem, a dynamic layer with its norm, a classifier; in eval mode with statistics of some images."""
    family, arguments, hyperparameters = CASES[case]
    layer = LAYERS[family](8, 8, **arguments, **hyperparameters)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), layer, nn.BatchNorm2d(8), nn.Flatten(2), Mean(), nn.Linear(8, 5)
    )
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(16, 3, 9, 8) * torch.rand(16, 3, 1, 1))
    return network.eval()


def padded_as_tensorflow(strides: int) -> nn.Module:
    """Convolutions of stride two, each padded by what its input's size asks for."""
    return nn.Sequential(*(Conv2dSame(3, 3, 3, stride=2) for _ in range(strides))).eval()


def sample_graph(file: Path) -> Any:
    """The graph that an ONNX file computes for each sample of a batch: the body of its loop."""
    import onnx

    (loop,) = onnx.load(file).graph.node
    assert loop.op_type == "Scan"
    return next(attribute.g for attribute in loop.attribute if attribute.name == "body")


class Mean(nn.Module):
    """Mean over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, N)`` to ``(B, C)``."""
        return x.mean(-1)


class Branches(nn.Module):
    """Chooses by the values of its input, inside a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.choice = nn.Sequential(nn.ReLU(), Choice())

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, 4, H, W)``."""
        return self.choice(self.stem(x))


class Choice(nn.Module):
    """The data-dependent part of `Branches`."""

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        return x if x.mean() > 0 else -x


class Heads(nn.Module):
    """Two inputs; outputs in a dictionary with a list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        """Two ``(B, 3, H, W)``."""
        y = self.conv(left) * right.mean((2, 3), keepdim=True).amax(1, keepdim=True)
        return {"out": y, "aux": [y.mean((2, 3)), y.amax((2, 3))]}


class FixedSize(nn.Module):
    """A classifier that needs images of 6x6."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, 6, 6)`` to ``(B, 2)``."""
        return self.linear(x.flatten(1))
