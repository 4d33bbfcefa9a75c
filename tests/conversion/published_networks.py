"""The published networks around their dynamic layers: structure and module names, small enough to run in a test."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.conversion.published_layers import PublishedDCD, PublishedDCDClassifier, PublishedODConv

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
Conv = Callable[..., nn.Module]


def rounded(channels: float) -> int:
    """Channels to a multiple of 8, at most a tenth less."""
    result = max(8, int(channels + 4) // 8 * 8)
    return result + 8 if result < 0.9 * channels else result


def conv(c_in: int, c_out: int, k: int = 1, stride: int = 1, groups: int = 1) -> nn.Module:
    """A static convolution."""
    return nn.Conv2d(c_in, c_out, k, stride, k // 2, groups=groups, bias=False)


def unit(made: nn.Module, channels: int) -> nn.Sequential:
    """Convolution, norm, activation."""
    return nn.Sequential(made, nn.BatchNorm2d(channels), nn.ReLU6())


class Block(nn.Module):
    """An inverted residual around a sequence."""

    def __init__(self, sequence: nn.Sequential, *, skip: bool) -> None:
        super().__init__()
        self.conv = sequence
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.skip else self.conv(x)


class DCDMobileNetV2(nn.Module):
    """Names count the activations: ``features.2.conv.6``. The classifier is at 1 when a dropout precedes it."""

    def __init__(self, width: float, num_classes: int, *, fc_squeeze: int = 8, dropout: bool = False) -> None:
        super().__init__()
        c = rounded(32 * width)
        features: list[nn.Module] = [unit(conv(3, c, 3, 2), c)]
        for expand, channels, repeats, first in STAGES:
            for n in range(repeats):
                c_out, stride, hidden = rounded(channels * width), first if n == 0 else 1, c * expand
                depthwise = [*unit(conv(hidden, hidden, 3, stride, hidden), hidden)]
                if expand == 1:
                    parts = [*depthwise, conv(hidden, c_out), nn.BatchNorm2d(c_out)]
                else:
                    options = {"style": "mobilenet", "fc_squeeze": fc_squeeze}
                    grow = unit(PublishedDCD(c, hidden, **options), hidden)
                    shrink = [PublishedDCD(hidden, c_out, **options), nn.BatchNorm2d(c_out)]
                    parts = [*grow, *depthwise, *shrink]
                features.append(Block(nn.Sequential(*parts), skip=stride == 1 and c == c_out))
                c = c_out
        self.features = nn.Sequential(*features)
        self.conv = unit(conv(c, max(1280, rounded(1280 * width))), max(1280, rounded(1280 * width)))
        classifier = PublishedDCDClassifier(max(1280, rounded(1280 * width)), num_classes)
        self.classifier = nn.Sequential(*([nn.Dropout(0.2)] if dropout else []), classifier)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(self.features(x)).mean((2, 3)))


class ODConvMobileNetV2(nn.Module):
    """torchvision's names: ``features.2.conv.1.0``. Everything but the stem and the classifier is dynamic."""

    def __init__(self, width: float, num_classes: int, *, num_kernels: int = 4) -> None:
        super().__init__()

        def dynamic(c_in: int, c_out: int, k: int = 1, stride: int = 1, groups: int = 1) -> nn.Module:
            return PublishedODConv(c_in, c_out, k, stride, groups, num_kernels=num_kernels)

        c = rounded(32 * width)
        features: list[nn.Module] = [unit(conv(3, c, 3, 2), c)]
        for expand, channels, repeats, first in STAGES:
            for n in range(repeats):
                c_out, stride, hidden = rounded(channels * width), first if n == 0 else 1, c * expand
                grow = [unit(dynamic(c, hidden), hidden)] if expand > 1 else []
                depthwise = unit(dynamic(hidden, hidden, 3, stride, hidden), hidden)
                shrink = [dynamic(hidden, c_out), nn.BatchNorm2d(c_out)]
                features.append(Block(nn.Sequential(*grow, depthwise, *shrink), skip=stride == 1 and c == c_out))
                c = c_out
        last = max(1280, rounded(1280 * width))
        features.append(unit(dynamic(c, last), last))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class ResidualBlock(nn.Module):
    """A basic or bottleneck block, the stride in its 3x3 convolution."""

    def __init__(self, make: Conv, c_in: int, planes: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        c_out = planes * (4 if bottleneck else 1)
        shapes = (
            [(c_in, planes, 1, 1), (planes, planes, 3, stride), (planes, c_out, 1, 1)]
            if bottleneck
            else [(c_in, planes, 3, stride), (planes, planes, 3, 1)]
        )
        self.depth = len(shapes)
        for n, shape in enumerate(shapes, start=1):
            self.add_module(f"conv{n}", make(*shape))
            self.add_module(f"bn{n}", nn.BatchNorm2d(shape[1]))
        self.downsample = None
        if stride > 1 or c_in != c_out:
            self.downsample = nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for n in range(1, self.depth + 1):
            out = self.get_submodule(f"bn{n}")(self.get_submodule(f"conv{n}")(out))
            out = out.relu() if n < self.depth else out
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


class PublishedResNet(nn.Module):
    """torchvision's names; DCD's classifier is dynamic, in a sequence with a dropout or alone."""

    def __init__(
        self,
        family: str,
        channels: tuple[int, ...],
        blocks: tuple[int, ...],
        num_classes: int,
        *,
        bottleneck: bool = False,
        dropout: bool = False,
    ) -> None:
        super().__init__()
        style = "bottleneck" if bottleneck else "basic"

        def make(c_in: int, c_out: int, k: int, stride: int) -> nn.Module:
            if family == "dcd":
                return PublishedDCD(c_in, c_out, k, stride, style=style)
            return PublishedODConv(c_in, c_out, k, stride)

        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        c = 64
        for stage, (planes, repeats) in enumerate(zip(channels, blocks, strict=True), start=1):
            layer = nn.Sequential()
            for n in range(repeats):
                stride = 2 if stage > 1 and n == 0 else 1
                layer.append(ResidualBlock(make, c, planes, stride, bottleneck=bottleneck))
                c = planes * (4 if bottleneck else 1)
            self.add_module(f"layer{stage}", layer)
        if family == "dcd":
            head = PublishedDCDClassifier(c, num_classes)
            self.classifier = nn.Sequential(*([nn.Dropout(0.2)] if dropout else []), head)
        else:
            self.fc = nn.Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        head = self.classifier if hasattr(self, "classifier") else self.fc
        return head(x.mean((2, 3)))


def images(count: int = 8) -> Tensor:
    """The same pictures every time, ``(count, 3, 64, 64)``."""
    return torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)[:count]


def warmed(model: nn.Module) -> nn.Module:
    """The model in float64 and eval mode, its norms at the statistics of `images`, their weights away from 1 and 0.

    On these pictures it is then well-conditioned in eval mode. On others random dynamic layers, quadratic in their
    input, can grow from layer to layer until rounding in float64 shows.
    """
    model.double().train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    with torch.no_grad():
        model(images())
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()
