"""Kinds of convolutions, by groups and kernel size."""

from typing import Literal, get_args

from torch import nn

Kind = Literal["pointwise", "depthwise", "grouped", "spatial"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def kind_of(conv: nn.Conv2d) -> Kind:
    """Return the kind: ``depthwise`` has a group per input channel, ``grouped`` other groups, ``pointwise`` is 1x1."""
    if conv.groups > 1:
        return "depthwise" if conv.groups == conv.in_channels else "grouped"
    return "pointwise" if tuple(conv.kernel_size) == (1, 1) else "spatial"


def describe(conv: nn.Conv2d) -> str:
    """Return channels, kernel size and, if it is not 1, stride: ``64 -> 128, 3x3, stride 2``."""
    height, width = conv.kernel_size
    parts = [f"{conv.in_channels} -> {conv.out_channels}", f"{height}x{width}"]
    if tuple(conv.stride) != (1, 1):
        strides = sorted({str(side) for side in conv.stride})
        parts.append(f"stride {'x'.join(strides)}")
    return ", ".join(parts)
