"""Layers of a family to check: each geometry of a convolution, and the family's options."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.families import DynamicConv2d, Family
from dynaconv.families.contract.branch import BranchLinear, DynamicBranch
from dynaconv.families.contract.norms import LatentBatchNorm2d

IN_CHANNELS = 8
"""Of every case."""
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
"""Arguments of `torch.nn.Conv2d` that every family must take; 8 channels in, and 12 out where none are given."""
_OF_CONV2D = nn.Conv2d.__init__.__annotations__


@dataclass(frozen=True)
class Case:
    """One way to make a layer.

    Attributes:
        family: Its family.
        name: As tests show it.
        arguments: The constructor's, those of `torch.nn.Conv2d` and the family's options.
    """

    family: Family
    name: str
    arguments: Mapping[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.family.name}-{self.name}"

    @property
    def all_arguments(self) -> dict[str, Any]:
        """`arguments` with the channels."""
        return {"in_channels": IN_CHANNELS, "out_channels": 12, **self.arguments}

    @property
    def algorithms(self) -> list[str]:
        """What the layer's `algorithm` may be, ``auto`` included."""
        return [*self.make(device="meta").algorithms, "auto"]

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether no kernel of one sample exists in train mode."""
        layer = self.make(device="meta")
        norms = (getattr(layer, "context_norm", None), getattr(layer, "norm1", None))
        return any(isinstance(norm, LatentBatchNorm2d) for norm in norms)

    def make(self, **overrides: Any) -> DynamicConv2d:
        """The layer, its dynamic part large enough to show in every result."""
        layer = self.family.layer(**{**self.all_arguments, **overrides})
        if not layer.weight.is_meta:
            enlarge(layer)
        return layer

    def ready(self, **overrides: Any) -> DynamicConv2d:
        """The layer in float64 and eval mode, its norms with statistics of their own."""
        layer = self.make(dtype=torch.float64, **overrides)
        season(layer)
        return layer.eval()

    def static_twin(self, **options: Any) -> nn.Conv2d:
        """`torch.nn.Conv2d` with the arguments that it knows."""
        known = {key: value for key, value in self.all_arguments.items() if key in _OF_CONV2D}
        return nn.Conv2d(**known, **options)

    def neutral(self, conv: nn.Conv2d) -> DynamicConv2d:
        """The layer made from a static one by `from_conv`."""
        options = {key: value for key, value in self.all_arguments.items() if key not in _OF_CONV2D}
        return self.family.layer.from_conv(conv, **options)


def cases(family: Family, options: Iterable[Mapping[str, Any]] = ({},)) -> list[Case]:
    """Cases of a family: every geometry with the first options, a 1x1 and a 3x3 convolution with each of the rest."""
    first, *rest = options
    found = [Case(family, name, {**geometry, **first}) for name, geometry in GEOMETRIES.items()]
    for each in rest:
        words = ",".join(f"{key}={value}" for key, value in each.items())
        found += [Case(family, f"{name}[{words}]", {**GEOMETRIES[name], **each}) for name in ("pointwise", "square")]
    return found


def images(batch: int = 3, size: tuple[int, int] = (9, 7), dtype: torch.dtype = torch.float64) -> Tensor:
    """Random inputs of every case."""
    return torch.randn(batch, IN_CHANNELS, *size, dtype=dtype)


def enlarge(layer: nn.Module) -> None:
    """Draw the branch's weights so large that coefficients differ between samples by tenths."""
    branch: Any = layer.branch
    if isinstance(branch, DynamicBranch) and isinstance(layer.context_norm, nn.LayerNorm):
        for head in branch.heads.values():
            assert isinstance(head, BranchLinear)
            nn.init.normal_(head.weight, std=0.5 / branch.gain)
        return
    for module in branch.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.0)


def season(layer: nn.Module) -> None:
    """Give norms statistics and weights other than their fresh ones."""
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if "norm" in name and tensor.is_floating_point():
            tensor.data.copy_(torch.rand(tensor.shape).to(tensor) * 0.5 + 1)
