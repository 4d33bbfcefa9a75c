"""The arguments that the compiled operators of a kernel mixture share; `native/csrc/mixture_conv.h` defines them."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.packing import panel_width


def operator_sizes(geometry: Geometry) -> list[int]:
    """Return kernel size, stride, padding and dilation."""
    return [*geometry.kernel_size, *geometry.stride, *geometry.padding, *geometry.dilation]


def operator_coefficients(attentions: Sequence[Tensor | None], kernels: Tensor) -> list[Tensor]:
    """Return the coefficients, those of channels as long as their panels, and an empty tensor for None."""
    kernel, channel, spatial, filters = attentions
    lengths = (len(kernels), panel_width(kernels.shape[2]), math.prod(kernels.shape[3:]), panel_width(kernels.shape[1]))
    parts = zip((kernel, channel, spatial, filters), lengths, strict=True)
    return [kernels.new_empty(0) if part is None else _padded(part, length) for part, length in parts]


def _padded(part: Tensor, length: int) -> Tensor:
    return (part if part.shape[1] == length else F.pad(part, (0, length - part.shape[1]))).contiguous()
