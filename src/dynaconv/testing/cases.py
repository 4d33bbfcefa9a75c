"""Layers of a family to check: all geometries of a convolution, and the family's options."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.families import DynamicConv2d, Family
from dynaconv.families.contract.branch import BranchLinear, DynamicBranch
from dynaconv.families.contract.norms import LatentBatchNorm2d

IN_CHANNELS = 8
"""Input channels of every case."""
GEOMETRIES: dict[str, dict[str, Any]] = {
    "pointwise": {"kernel_size": 1},
    "pointwise-stride": {"kernel_size": 1, "stride": 2, "bias": False},
    "square": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel_size": (3, 5), "padding": (1, 0), "dilation": (2, 1), "bias": False},
    "even": {"kernel_size": (2, 4), "padding": "same"},
    "reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "pointwise-grouped": {"kernel_size": 1, "groups": 4},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 8, "out_channels": 8},
    "depthwise-multiplier": {"kernel_size": 5, "padding": 2, "stride": 2, "groups": 8, "out_channels": 16},
}
"""Arguments of `torch.nn.Conv2d` that every family must support; 8 input and, by default, 12 output channels."""
_OF_CONV2D = nn.Conv2d.__init__.__annotations__


@dataclass(frozen=True)
class Case:
    """A layer to test.

    Attributes:
        family: Family of the layer.
        name: Name in test ids.
        arguments: Arguments of the constructor: those of `torch.nn.Conv2d` and the family's options.
    """

    family: Family
    name: str
    arguments: Mapping[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.family.name}-{self.name}"

    @property
    def all_arguments(self) -> dict[str, Any]:
        """`arguments` with the numbers of channels."""
        return {"in_channels": IN_CHANNELS, "out_channels": 12, **self.arguments}

    @property
    def algorithms(self) -> list[str]:
        """Valid values of the layer's `algorithm`, including ``auto``."""
        return [*self.make(device="meta").algorithms, "auto"]

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether train mode uses batch statistics, so that no kernel of a single sample exists."""
        layer = self.make(device="meta")
        norms = (getattr(layer, "context_norm", None), getattr(layer, "norm1", None))
        return any(isinstance(norm, LatentBatchNorm2d) for norm in norms)

    def make(self, **overrides: Any) -> DynamicConv2d:
        """Return the layer with a branch whose weights are large enough to affect every result."""
        layer = self.family.layer(**{**self.all_arguments, **overrides})
        if not layer.weight.is_meta:
            enlarge(layer)
        return layer

    def ready(self, **overrides: Any) -> DynamicConv2d:
        """Return the layer in float64 and eval mode, with random statistics and weights of its norms."""
        layer = self.make(dtype=torch.float64, **overrides)
        randomise_norms(layer)
        return layer.eval()

    def static_twin(self, **options: Any) -> nn.Conv2d:
        """Return a `torch.nn.Conv2d` with those of the arguments that it has."""
        known = {key: value for key, value in self.all_arguments.items() if key in _OF_CONV2D}
        return nn.Conv2d(**known, **options)

    def neutral(self, conv: nn.Conv2d) -> DynamicConv2d:
        """Return the layer that `from_conv` makes of a static convolution."""
        options = {key: value for key, value in self.all_arguments.items() if key not in _OF_CONV2D}
        return self.family.layer.from_conv(conv, **options)


def cases(family: Family, options: Iterable[Mapping[str, Any]] = ({},)) -> list[Case]:
    """Return every geometry with the first options, and a 1x1 and a 3x3 convolution with each of the other options."""
    first, *rest = options
    result = [Case(family, name, {**geometry, **first}) for name, geometry in GEOMETRIES.items()]
    for each in rest:
        words = ",".join(f"{key}={value}" for key, value in each.items())
        result += [Case(family, f"{name}[{words}]", {**GEOMETRIES[name], **each}) for name in ("pointwise", "square")]
    return result


def images(batch: int = 3, size: tuple[int, int] = (9, 7), dtype: torch.dtype = torch.float64) -> Tensor:
    """Random inputs of every case."""
    return torch.randn(batch, IN_CHANNELS, *size, dtype=dtype)


def enlarge(layer: nn.Module) -> None:
    """Initialise the branch with weights so large that the coefficients of two samples differ by tenths."""
    branch: Any = layer.branch
    if isinstance(branch, DynamicBranch) and isinstance(layer.context_norm, nn.LayerNorm):
        for head in branch.heads.values():
            assert isinstance(head, BranchLinear)
            nn.init.normal_(head.weight, std=0.5 / branch.gain)
        return
    for module in branch.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.0)


def randomise_norms(layer: nn.Module) -> None:
    """Set the statistics and weights of norms to random values."""
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if "norm" in name and tensor.is_floating_point():
            tensor.data.copy_(torch.rand(tensor.shape).to(tensor) * 0.5 + 1)
