"""The geometry of a convolution: kernel size, stride, symmetric zero padding, dilation, groups."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """The arguments of a convolution that determine which pixels each tap reads.

    The padding is symmetric zero padding, the only kind that the algorithms apply. The layer applies any other padding
    to the input first: "same" padding with different sizes on both sides, and other padding modes.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def num_taps(self) -> int:
        """Number of spatial positions of the kernel, k_h * k_w."""
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def centre(self) -> tuple[int, int]:
        """Row and column of the centre tap (the lower right of the middle four if a size is even)."""
        return self.kernel_size[0] // 2, self.kernel_size[1] // 2

    @property
    def pointwise(self) -> bool:
        """Whether the kernel has a single tap."""
        return self.num_taps == 1

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Output height and width for an input of this height and width."""
        return self._extent(height, 0), self._extent(width, 1)

    def _extent(self, size: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1)
        return (size + 2 * self.padding[axis] - reach - 1) // self.stride[axis] + 1
