"""Kinds of static layers: convolutions by groups and kernel size, transposed convolutions, and linear layers."""

from typing import get_args

from torch import nn
from torch.nn.modules.conv import _ConvNd

from dynaconv.families.family import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)
Static = _ConvNd | nn.Linear


def kind_of(static: Static) -> Kind:
    """Return the kind: ``depthwise`` has a group per input channel, ``grouped`` other groups, ``pointwise`` one tap."""
    if isinstance(static, nn.Linear):
        return "linear"
    if static.transposed:
        return "transposed"
    if static.groups > 1:
        return "depthwise" if static.groups == static.in_channels else "grouped"
    return "pointwise" if set(static.kernel_size) == {1} else "spatial"


def channels_of(static: Static) -> tuple[int, int]:
    """Return the numbers of input and output channels, or features."""
    if isinstance(static, nn.Linear):
        return static.in_features, static.out_features
    return static.in_channels, static.out_channels


def kernel_size_of(static: Static) -> tuple[int, ...]:
    """Return the side lengths of the kernel; that of a linear layer has one tap."""
    return (1,) if isinstance(static, nn.Linear) else static.kernel_size


def describe(static: Static) -> str:
    """Return channels and, of a convolution, kernel size and a stride other than 1: ``64 -> 128, 3x3, stride 2``."""
    parts = ["{} -> {}".format(*channels_of(static))]
    if isinstance(static, nn.Linear):
        return parts[0]
    parts.append("x".join(map(str, static.kernel_size)))
    if set(static.stride) != {1}:
        strides = sorted({str(side) for side in static.stride})
        parts.append(f"stride {'x'.join(strides)}")
    return ", ".join(parts)
