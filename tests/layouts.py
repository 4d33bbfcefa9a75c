"""Ways in which the numbers of a map ``(B, C, H, W)`` can lie in memory."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Layout = Callable[[Tensor], Tensor]
"""Differentiable; from a contiguous map to one of the same shape, whose values may be others."""


def _stored_as(order: tuple[int, ...]) -> Layout:
    """Dense, with the axes stored in this order."""
    inverse = tuple(order.index(axis) for axis in range(4))
    return lambda x: x.permute(order).clone(memory_format=torch.contiguous_format).permute(inverse)


def _every_second(axes: tuple[int, ...]) -> Layout:
    def layout(x: Tensor) -> Tensor:
        for axis in axes:
            x = x.repeat_interleave(2, axis)
        return x[tuple(slice(1, None, 2) if axis in axes else slice(None) for axis in range(4))]

    return layout


def _expanded(axes: tuple[int, ...]) -> Layout:
    return lambda x: x[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(4))].expand(x.shape)


def _part_of_larger(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (1, 2, 2, 1, 1, 1))[:, 1:-1, 2:-1, 1:-2]


def _overlapping(x: Tensor) -> Tensor:
    """Each row is the one before, moved by one pixel: both axes have the stride of a pixel."""
    return torch.cat((x[:, :, :, 0], x[:, :, -1, 1:]), 2).unfold(2, x.shape[3], 1)


def _negated(x: Tensor) -> Tensor:
    """Stored with the other sign, which torch notes in a bit of the tensor."""
    return torch.complex(torch.zeros_like(x), x).conj().imag


def _odd_strides_of_ones(x: Tensor) -> Tensor:
    """Axes of length one may have any stride; one that a product of the others cannot be."""
    strides = [7 if size == 1 else stride for size, stride in zip(x.shape, x.stride(), strict=True)]
    return x.as_strided(x.shape, strides)


LAYOUTS: dict[str, Layout] = {
    **{f"stored-{''.join(map(str, order))}": _stored_as(order) for order in itertools.permutations(range(4))},
    **{
        f"every-second-{''.join(map(str, axes))}": _every_second(axes)
        for axes in ((0,), (1,), (2,), (3,), (2, 3), (0, 1, 2, 3))
    },
    **{
        f"expanded-{''.join(map(str, axes))}": _expanded(axes)
        for axes in ((0,), (1,), (2,), (3,), (2, 3), (0, 1, 2, 3))
    },
    "flipped": lambda x: x.flip(2, 3),
    "turned": lambda x: torch.rot90(x, 2, (2, 3)).mT.clone(memory_format=torch.contiguous_format).mT,
    "part-of-larger": _part_of_larger,
    "overlapping": _overlapping,
    "negated": _negated,
    "odd-strides-of-ones": _odd_strides_of_ones,
    "channels-last-part": lambda x: _part_of_larger(x).contiguous(memory_format=torch.channels_last)[:, :, :, :],
    "channels-last-every-second": lambda x: _every_second((2, 3))(x.contiguous(memory_format=torch.channels_last)),
}
