"""The geometry of a convolution: kernel size, stride, symmetric zero padding, dilation, groups."""

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from dynaconv.errors import received


class Geometry(NamedTuple):
    """The arguments of a convolution, or of a transposed one, that determine which pixels each tap reads.

    All tuples have one entry per spatial axis; a geometry of other than two axes has to give each of them. The padding
    is symmetric zero padding, the only kind that the algorithms apply. The layer applies any other padding to the input
    first: "same" padding with different sizes on both sides, and other padding modes.

    Algorithms take the kernel of a transposed convolution in the layout of a convolution, ``(C_out, C_in / groups,
    *k)``; `swap_channels` converts torch's layout.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    output_padding: tuple[int, ...] | None = None
    """Pixels added at the end of each axis of a transposed convolution's output; None for a convolution."""

    @classmethod
    def point(cls, dims: int, stride: Sequence[int] | None = None, groups: int = 1) -> "Geometry":
        """Return the geometry of a convolution with a single tap over ``dims`` axes."""
        ones, zeros = (1,) * dims, (0,) * dims
        return cls(ones, ones if stride is None else tuple(stride), zeros, ones, groups)

    @property
    def dims(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel_size)

    @property
    def transposed(self) -> bool:
        """Whether this is a transposed convolution."""
        return self.output_padding is not None

    @property
    def num_taps(self) -> int:
        """Number of spatial positions of the kernel, k_h * k_w in two dimensions."""
        return math.prod(self.kernel_size)

    @property
    def taps(self) -> Iterator[tuple[int, ...]]:
        """The position of each tap, the last axis fastest."""
        return itertools.product(*map(range, self.kernel_size))

    @property
    def centre(self) -> tuple[int, ...]:
        """Position of the centre tap (of the middle ones the last if a size is even)."""
        return tuple(size // 2 for size in self.kernel_size)

    @property
    def pointwise(self) -> bool:
        """Whether the kernel has a single tap."""
        return self.num_taps == 1

    @property
    def dense_2d(self) -> bool:
        """Whether this is a convolution of one group over two axes, and not a transposed one."""
        return self.dims == 2 and self.groups == 1 and not self.transposed

    def output_size(self, *sizes: int) -> tuple[int, ...]:
        """Size of each spatial axis of the output for an input with these sizes."""
        return tuple(self._extent(size, axis) for axis, size in enumerate(sizes))

    def pixel_counts(self, input_shape: Sequence[int]) -> tuple[int, int, int]:
        """Return pixels of a batch ``(B, C_in, *sizes)``: those that each tap reads, of the input, of the output."""
        batch, sizes = input_shape[0], input_shape[2:]
        inputs, outputs = batch * math.prod(sizes), batch * math.prod(self.output_size(*sizes))
        return inputs if self.transposed else outputs, inputs, outputs

    def _extent(self, size: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1)
        if self.output_padding is not None:
            extra = reach + self.output_padding[axis] + 1
            return (size - 1) * self.stride[axis] - 2 * self.padding[axis] + extra
        return (size + 2 * self.padding[axis] - reach - 1) // self.stride[axis] + 1


def per_axis(name: str, value: object, dims: int, minimum: int = 1) -> tuple[int, ...]:
    """Return an argument as one integer of at least ``minimum`` per spatial axis, else raise ValueError."""
    values: Sequence[Any] = tuple(value) if isinstance(value, tuple | list) else (value,) * dims
    numbers = [operator.index(each) for each in values if hasattr(each, "__index__") and not isinstance(each, bool)]
    if not len(values) == len(numbers) == dims or min(numbers) < minimum:
        several = f", or {('two', 'three')[dims - 2]} of them" if dims > 1 else ""
        raise ValueError(f"{name} must be an integer of at least {minimum}{several}; got {received(value)}.")
    return tuple(numbers)


def same_padding(kernel_size: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pixels that ``padding="same"`` adds before and after each spatial axis, for stride 1."""
    reach = [spacing * (size - 1) for spacing, size in zip(dilation, kernel_size, strict=True)]
    return [(each // 2, each - each // 2) for each in reach]


def over_pixels(values: Tensor, dims: int) -> Tensor:
    """Append ``dims`` axes of length one, so that one value per channel broadcasts over pixels or taps."""
    return values[(..., *(None,) * dims)]


def swap_channels(kernel: Tensor, groups: int, dims: int) -> Tensor:
    """Convert kernels between ``(..., C_out, C_in / groups, *k)`` and ``(..., C_in, C_out / groups, *k)``.

    The first is torch's layout of a convolution, the second that of a transposed convolution. No tap moves.
    """
    axis = kernel.dim() - dims - 2
    if groups == 1:
        return kernel.transpose(axis, axis + 1)
    blocks = kernel.reshape(*kernel.shape[:axis], groups, kernel.shape[axis] // groups, *kernel.shape[axis + 1 :])
    return blocks.transpose(axis + 1, axis + 2).flatten(axis, axis + 1)


def transposed_geometry(
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    output_padding: tuple[int, ...],
) -> Geometry:
    """Return the geometry of a transposed convolution; one that is a 1x1 convolution is described as that."""
    if {*kernel_size, *stride} == {1} and not any((*padding, *output_padding)):
        return Geometry.point(len(kernel_size), groups=groups)
    return Geometry(kernel_size, stride, padding, dilation, groups, output_padding)


def check_output_padding(output_padding: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> None:
    """Raise ValueError unless each output padding is smaller than the stride or the dilation of its axis."""
    for extra, step, spacing in zip(output_padding, stride, dilation, strict=True):
        if extra >= max(step, spacing):
            raise ValueError(
                f"output_padding={tuple(output_padding)} must be smaller than the stride or the dilation of its axis; "
                f"got stride={tuple(stride)}, dilation={tuple(dilation)}."
            )
