"""A 2-D convolution with a kernel for each sample: attributes of `torch.nn.Conv2d`, padding, choice of algorithm."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.families.contract.checks import check_choice, check_divides, check_images, check_positive, pair
from dynaconv.families.contract.operator import DynamicOperator
from dynaconv.ops import Cost, Geometry, cheapest, is_exporting

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
CONV2D_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)
_GEOMETRY_ATTRIBUTES = frozenset(("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"))
"""Attributes that determine which pixels each tap reads."""
_MAX_CACHED_SHAPES = 64
Pads = tuple[int, int, int, int]
"""Padding in pixels: left, right, top, bottom."""


class DynamicConvolution(DynamicOperator):
    """A convolution with the attributes of `torch.nn.Conv2d`, which can be changed at any time."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int
    padding_mode: str
    _functions: ClassVar[Mapping[str, Callable[..., Tensor]]] = {}
    """The family's algorithms by name."""
    _exported_algorithm: ClassVar[str] = "kernel"
    """Algorithm of ``auto`` during export, and under torch.compile if the sizes leave the choice open."""
    _geometry_and_pads: tuple[Geometry, Pads | None]
    """`geometry`, and the padding to apply to the input first; None for none."""
    _algorithm_by_shape: dict[Any, str]
    """Algorithm that ``auto`` chose, by the shape of the padded input."""

    def _set_arguments(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int],
        padding: int | tuple[int, int] | str,
        dilation: int | tuple[int, int],
        groups: int,
        padding_mode: str,
    ) -> None:
        """Check the arguments and store them.

        Raises:
            ValueError: one is out of range, or groups does not divide the channels.
        """
        self.in_channels = check_positive("in_channels", in_channels)
        self.out_channels = check_positive("out_channels", out_channels)
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride = pair("stride", stride)
        self.dilation = pair("dilation", dilation)
        self.groups = check_positive("groups", groups)
        check_divides("groups", groups, "in_channels", in_channels)
        check_divides("groups", groups, "out_channels", out_channels)
        check_choice("padding_mode", padding_mode, get_args(PaddingMode))
        self.padding_mode = padding_mode
        self.padding = _checked_padding(padding, self.stride)
        self.transposed = False
        self.output_padding = (0, 0)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Names of the algorithms that can evaluate this layer."""
        return tuple(self._functions)

    def algorithm_costs(self, input_shape: tuple[int, int, int, int]) -> dict[str, Cost]:
        """Return each algorithm's cost for an input ``(B, C_in, H, W)``, by which ``algorithm="auto"`` chooses."""
        x = torch.empty(input_shape, device="meta")
        self._check_input(x)
        padded = self._padded(x).shape
        return self._costs_of((padded[0], padded[1], padded[2], padded[3]))

    @abstractmethod
    def _costs_of(self, padded: tuple[int, int, int, int]) -> dict[str, Cost]:
        """Return each algorithm's cost for an input of this shape, which includes the padding of `_padded`."""

    def _choose(self, padded: Tensor) -> str:
        """Return the algorithm for this input: the one that was set, or the cheapest, computed once per shape."""
        algorithm: str = self.algorithm
        if algorithm != "auto":
            return algorithm
        if is_exporting():
            return self._exported_algorithm
        shape: Any = padded.shape
        # The sizes of tensor subclasses may be symbolic.
        if type(padded) is not Tensor or torch.compiler.is_compiling():
            return cheapest(self._costs_of(shape), undecided=self._exported_algorithm)
        cached = self._algorithm_by_shape.get(shape)
        if cached is None:
            if len(self._algorithm_by_shape) >= _MAX_CACHED_SHAPES:
                self._algorithm_by_shape.clear()
            self._algorithm_by_shape[shape] = cached = cheapest(self._costs_of(shape))
        return cached

    def sample_bias(self, x: Tensor) -> Tensor | None:
        """The bias of each sample of ``x``, ``(B, C_out)``, or None if the layer adds no bias."""
        return None if self.bias is None else self.bias.expand(x.shape[0], -1)

    def _function(self, padded: Tensor) -> Callable[..., Tensor]:
        """Return the function of the algorithm for this input."""
        return self._functions[self._choose(padded)]

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels or x.is_complex():
            check_images(x, self.in_channels, type(self).__name__)

    def _padded(self, x: Tensor) -> Tensor:
        """Return ``x`` with the padding that the algorithms do not apply themselves."""
        if not (is_exporting() or torch.compiler.is_compiling()):
            x = _normalise_batch_stride(x)
        _, pads = self._geometry_and_pads
        if pads is None:
            return x
        return F.pad(x, pads, "constant" if self.padding_mode == "zeros" else self.padding_mode)

    @property
    def geometry(self) -> Geometry:
        """Stride, padding, dilation and groups of the convolution that runs on the padded input."""
        return self._geometry_and_pads[0]

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _GEOMETRY_ATTRIBUTES and all(map(self.__dict__.__contains__, _GEOMETRY_ATTRIBUTES)):
            # Set here and not in the forward pass, because several threads may run the forward pass at once.
            self._geometry_and_pads, self._algorithm_by_shape = self._make_geometry(), {}

    def _make_geometry(self) -> tuple[Geometry, Pads | None]:
        left, right, top, bottom = pads = self._pads()
        # Every algorithm applies symmetric zero padding itself.
        simple = self.padding_mode == "zeros" and left == right and top == bottom
        inside = (top, left) if simple else (0, 0)
        geometry = Geometry(self.kernel_size, self.stride, inside, self.dilation, self.groups)
        return geometry, None if simple or not any(pads) else pads

    def _pads(self) -> Pads:
        if self.padding == "valid":
            return (0, 0, 0, 0)
        if self.padding == "same":
            reach_h, reach_w = (d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
            return (reach_w // 2, reach_w - reach_w // 2, reach_h // 2, reach_h - reach_h // 2)
        assert not isinstance(self.padding, str)
        height, width = self.padding
        return (width, width, height, height)

    def extra_repr(self) -> str:
        """The arguments that differ from `torch.nn.Conv2d`'s defaults."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"padding={self.padding!r}"] if self.padding != (0, 0) else []
        parts += [f"dilation={self.dilation}"] if self.dilation != (1, 1) else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        parts += [f"padding_mode={self.padding_mode!r}"] if self.padding_mode != "zeros" else []
        return ", ".join(parts)


def conv_arguments(conv: Any) -> dict[str, Any]:
    """Return the arguments of a `torch.nn.Conv2d` like ``conv``, without bias, device and dtype."""
    return {name: getattr(conv, name) for name in CONV2D_ARGUMENTS}


def _checked_padding(padding: int | tuple[int, int] | str, stride: tuple[int, int]) -> tuple[int, int] | str:
    if not isinstance(padding, str):
        return pair("padding", padding, minimum=0)
    check_choice("padding", padding, ("same", "valid"))
    if padding == "same" and stride != (1, 1):
        raise ValueError(f"padding='same' needs stride 1; got stride={stride}. Give the padding as numbers.")
    return padding


def _normalise_batch_stride(x: Tensor) -> Tensor:
    """Copy ``x`` if it is a single channels_last image whose batch stride is not the default one.

    The stride of an axis of length one has no meaning, but with such strides the weight's gradient of a grouped
    `torch.nn.functional.conv2d` is wrong on the CPU (torch 2.14).
    """
    if x.shape[0] == 1 and x.stride(0) != x.numel() and x.is_contiguous(memory_format=torch.channels_last):
        return x.clone(memory_format=torch.channels_last)
    return x
