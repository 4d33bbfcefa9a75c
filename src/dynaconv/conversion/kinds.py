"""Kinds of convolutions, by groups and kernel size; transposed convolutions are one kind."""

from typing import Literal, get_args

from torch.nn.modules.conv import _ConvNd

Kind = Literal["pointwise", "depthwise", "grouped", "spatial", "transposed"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def kind_of(conv: _ConvNd) -> Kind:
    """Return the kind: ``depthwise`` has a group per input channel, ``grouped`` other groups, ``pointwise`` one tap."""
    if conv.transposed:
        return "transposed"
    if conv.groups > 1:
        return "depthwise" if conv.groups == conv.in_channels else "grouped"
    return "pointwise" if set(conv.kernel_size) == {1} else "spatial"


def describe(conv: _ConvNd) -> str:
    """Return channels, kernel size and, if it is not 1, stride: ``64 -> 128, 3x3, stride 2``."""
    parts = [f"{conv.in_channels} -> {conv.out_channels}", "x".join(map(str, conv.kernel_size))]
    if set(conv.stride) != {1}:
        strides = sorted({str(side) for side in conv.stride})
        parts.append(f"stride {'x'.join(strides)}")
    return ", ".join(parts)
