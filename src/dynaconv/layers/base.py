"""The contract of every dynamic convolution."""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.layers._checks import check_choice, check_divides, check_images, check_positive, pair
from dynaconv.ops.common import Geometry

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class DynamicConv2d(nn.Module, ABC):
    """A 2-D convolution whose kernel depends on its input; base of every family.

    Constructor arguments and attributes are those of `torch.nn.Conv2d`. The static kernel is the parameter ``weight``,
    ``(C_out, C_in / groups, k_h, k_w)``, so a static layer's state dict has its place here.

    `forward(x)` equals convolving each sample with its own `kernel(x)` and adding its `sample_bias(x)`, by the
    cheapest algorithm.

    Raises:
        ValueError: an argument is out of range, or groups does not divide the channels.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = check_positive("in_channels", in_channels)
        self.out_channels = check_positive("out_channels", out_channels)
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride = pair("stride", stride)
        self.dilation = pair("dilation", dilation)
        self.groups = check_positive("groups", groups)
        check_divides("groups", groups, "in_channels", in_channels)
        check_divides("groups", groups, "out_channels", out_channels)
        check_choice("padding_mode", padding_mode, ("zeros", "reflect", "replicate", "circular"))
        self.padding_mode = padding_mode
        self.padding = self._checked_padding(padding)
        self.transposed = False
        self.output_padding = (0, 0)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)

    @abstractmethod
    def coefficients(self, x: Tensor) -> Any:
        """What the dynamic branch computes for ``x``, ``(B, C_in, H, W)``: a named tuple of tensors, batch first."""

    @abstractmethod
    def kernel(self, x: Tensor) -> Tensor:
        """The kernel of each sample of ``x``, ``(B, C_out, C_in / groups, k_h, k_w)``."""

    def sample_bias(self, x: Tensor) -> Tensor | None:
        """The bias of each sample of ``x``, ``(B, C_out)``, or None when the layer adds none."""
        return None if self.bias is None else self.bias.expand(x.shape[0], -1)

    @classmethod
    @abstractmethod
    def from_conv(cls, conv: nn.Conv2d, **hyperparameters: Any) -> Self:
        """A dynamic layer that computes what ``conv`` computes, until it is trained."""

    @classmethod
    def like(cls, conv: nn.Conv2d, **hyperparameters: Any) -> Self:
        """A layer with the arguments, static weights, dtype, device and modes of ``conv``, its dynamic part as fresh.

        Raises:
            TypeError: ``conv`` is no `torch.nn.Conv2d` or computes something else, or a hyperparameter is unknown.
            ValueError: a hyperparameter does not fit.
        """
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"{cls.__name__}.from_conv takes a torch.nn.Conv2d; got {type(conv).__name__}.")
        kind = type(conv)
        if kind.forward is not nn.Conv2d.forward or kind._conv_forward is not nn.Conv2d._conv_forward:
            raise TypeError(
                f"{kind.__name__} computes something else than torch.nn.Conv2d, so {cls.__name__}.from_conv cannot "
                f"keep its function; give a torch.nn.Conv2d."
            )
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            conv.weight.device,
            conv.weight.dtype,
            **hyperparameters,
        )
        adopt_static(layer, conv)
        return layer

    def _reset_static(self) -> None:
        """Initialise weight and bias as `torch.nn.Conv2d` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = self.weight[0].numel()
            nn.init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def _check_input(self, x: Tensor) -> None:
        check_images(x, self.in_channels, type(self).__name__)

    def _padded(self, x: Tensor) -> Tensor:
        """``x`` with every padding applied that the algorithms do not do themselves."""
        sides = self._sides()
        if self._is_simple(sides) or not any(sides):
            return x
        return F.pad(x, sides, "constant" if self.padding_mode == "zeros" else self.padding_mode)

    @property
    def geometry(self) -> Geometry:
        """Stride, padding, dilation and groups of the convolution that runs on the padded input."""
        sides = self._sides()
        padding = (sides[2], sides[0]) if self._is_simple(sides) else (0, 0)
        return Geometry(self.kernel_size, self.stride, padding, self.dilation, self.groups)

    def _sides(self) -> tuple[int, int, int, int]:
        """Pixels of padding left, right, above and below, from the attributes as they are now."""
        if self.padding == "valid":
            return (0, 0, 0, 0)
        if self.padding == "same":
            reach_h, reach_w = (d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
            return (reach_w // 2, reach_w - reach_w // 2, reach_h // 2, reach_h - reach_h // 2)
        assert not isinstance(self.padding, str)
        height, width = self.padding
        return (width, width, height, height)

    def _is_simple(self, sides: tuple[int, int, int, int]) -> bool:
        """Whether the padding is symmetric zeros, which every algorithm does itself."""
        return self.padding_mode == "zeros" and sides[0] == sides[1] and sides[2] == sides[3]

    def _checked_padding(self, padding: int | tuple[int, int] | str) -> tuple[int, int] | str:
        if not isinstance(padding, str):
            return pair("padding", padding, minimum=0)
        check_choice("padding", padding, ("same", "valid"))
        if padding == "same" and self.stride != (1, 1):
            raise ValueError(f"padding='same' needs stride 1; got stride={self.stride}. Give the padding as numbers.")
        return padding

    def extra_repr(self) -> str:
        """The arguments that differ from `torch.nn.Conv2d`'s defaults."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"padding={self.padding!r}"] if self.padding != (0, 0) else []
        parts += [f"dilation={self.dilation}"] if self.dilation != (1, 1) else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        parts += [f"padding_mode={self.padding_mode!r}"] if self.padding_mode != "zeros" else []
        return ", ".join(parts)


def adopt_static(layer: nn.Module, static: nn.Conv2d | nn.Linear) -> None:
    """Take over weight, bias, what is trainable, and train mode from ``static`` into a layer of the same sizes."""
    with torch.no_grad():
        for name in ("weight", "bias"):
            mine, theirs = getattr(layer, name), getattr(static, name)
            if theirs is not None:
                mine.copy_(theirs)
                mine.requires_grad_(theirs.requires_grad)
    layer.train(static.training)
