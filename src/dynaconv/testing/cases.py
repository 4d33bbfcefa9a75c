"""Layers of a family to check: all geometries of a convolution, and the family's options."""

import inspect
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import check_type
from dynaconv.families import DynamicConv, Family
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
"""Arguments of `torch.nn.Conv2d` that a family must support, unless its `Family` excludes them; 8 input and,
by default, 12 output channels."""
OTHER_GEOMETRIES = ("pointwise", "square", "even", "grouped", "depthwise")
"""Names of the geometries that are checked in other dimensions too."""
TRANSPOSED_GEOMETRIES: dict[str, dict[str, Any]] = {
    "pointwise": {"kernel_size": 1},
    "square": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "upsampling": {"kernel_size": 2, "stride": 2, "bias": False},
    "dilated": {"kernel_size": 4, "stride": 3, "dilation": 2, "padding": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "stride": 2, "groups": 8, "out_channels": 8},
}
"""Arguments of torch's transposed convolutions that every family with transposed layers must support."""
SIZES = (9, 7, 8)
"""Spatial sizes of the inputs of every case; the first ones in fewer than three dimensions."""


@dataclass(frozen=True)
class Case:
    """A layer to test.

    Attributes:
        family: Family of the layer.
        name: Name in test ids.
        arguments: Arguments of the constructor: those of torch's convolution and the family's options.
        layer: Class of the layer; by default the family's layer over images.
    """

    family: Family
    name: str
    arguments: Mapping[str, Any] = field(hash=False)
    layer: type[DynamicConv] | None = None

    def __str__(self) -> str:
        return f"{self.family.name}-{self.name}"

    @property
    def kind(self) -> type[DynamicConv]:
        """Class of the layer."""
        return self.layer or self.family.layer

    @property
    def _of_torch(self) -> Container[str]:
        """Names of the arguments of torch's convolution."""
        return inspect.signature(self.kind.static_class()).parameters

    def images(self, batch: int = 3, sizes: Sequence[int] | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """Random inputs of the case."""
        return torch.randn(batch, IN_CHANNELS, *(sizes or SIZES[: self.kind.dims]), dtype=dtype)

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

    def make(self, **overrides: Any) -> DynamicConv:
        """Return the layer with a branch whose weights are large enough to affect every result."""
        layer = self.kind(**{**self.all_arguments, **overrides})
        if not layer.stored_kernel.is_meta:
            enlarge(layer)
        return layer

    def ready(self, **overrides: Any) -> DynamicConv:
        """Return the layer in float64 and eval mode, with random statistics and weights of its norms."""
        layer = self.make(dtype=torch.float64, **overrides)
        randomise_norms(layer)
        return layer.eval()

    def static_twin(self, **options: Any) -> Any:
        """Return torch's convolution with those of the arguments that it has."""
        known = {key: value for key, value in self.all_arguments.items() if key in self._of_torch}
        return self.kind.static_class()(**known, **options)

    def neutral(self, conv: nn.Module) -> DynamicConv:
        """Return the layer that `from_conv` makes of a static convolution."""
        options = {key: value for key, value in self.all_arguments.items() if key not in self._of_torch}
        return self.kind.from_conv(conv, **options)


def cases(family: Family, options: Iterable[Mapping[str, Any]] = ({},)) -> list[Case]:
    """Return the cases of a family.

    These are every geometry with the first options, also in the family's other dimensions, and a 1x1 and a 3x3
    convolution over images with each of the other options.
    """
    check_type("family", family, Family)
    first, *rest = options
    result = [Case(family, name, {**geometry, **first}) for name, geometry in geometries(family).items()]
    for each in rest:
        words = ",".join(f"{key}={value}" for key, value in each.items())
        result += [Case(family, f"{name}[{words}]", {**GEOMETRIES[name], **each}) for name in ("pointwise", "square")]
    return result + [case for layer in family.others for case in cases_of(family, layer, first)]


def geometries(family: Family) -> dict[str, dict[str, Any]]:
    """Return the `GEOMETRIES` whose kernel size and groups the family supports."""
    sizes = family.kernel_sizes
    return {
        name: geometry
        for name, geometry in GEOMETRIES.items()
        if (sizes is None or geometry["kernel_size"] in sizes) and (family.grouped or "groups" not in geometry)
    }


def cases_of(family: Family, layer: type[DynamicConv], options: Mapping[str, Any] | None = None) -> list[Case]:
    """Return the cases of one of a family's layers, with the given options."""
    if layer.transposed:
        named = TRANSPOSED_GEOMETRIES
    else:
        named = {name: in_dims(GEOMETRIES[name], layer.dims) for name in OTHER_GEOMETRIES}
    word = layer.static_class().__name__.lower()
    return [Case(family, f"{word}-{name}", {**geometry, **(options or {})}, layer) for name, geometry in named.items()]


def in_dims(arguments: Mapping[str, Any], dims: int) -> dict[str, Any]:
    """Return the arguments of a convolution over images for ``dims`` axes: pairs are cut, or repeat their first."""
    return {key: (value + value)[:dims] if isinstance(value, tuple) else value for key, value in arguments.items()}


def images(batch: int = 3, size: Sequence[int] = SIZES[:2], dtype: torch.dtype = torch.float64) -> Tensor:
    """Random inputs of the cases over images."""
    return torch.randn(batch, IN_CHANNELS, *size, dtype=dtype)


def enlarge(layer: nn.Module) -> None:
    """Initialise the branch with weights so large that the coefficients of two samples differ by tenths."""
    branch: Any = layer.branch
    if isinstance(branch, DynamicBranch) and isinstance(layer.context_norm, nn.LayerNorm):
        for head in branch.heads.values():
            assert isinstance(head, BranchLinear)
            nn.init.normal_(head.weight, std=0.5 / branch.gain)
        return
    for module in layer.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.normal_(module.weight, std=1.0)


def randomise_norms(layer: nn.Module) -> None:
    """Set the statistics and weights of norms to random values."""
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if "norm" in name and tensor.is_floating_point():
            tensor.data.copy_(torch.rand(tensor.shape).to(tensor) * 0.5 + 1)
