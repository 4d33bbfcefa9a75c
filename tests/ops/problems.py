"""Random convolutions: an input's sizes and a geometry that fit together."""

import dataclasses
from typing import Any

from hypothesis import strategies as st

from dynaconv.ops import Geometry


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Sizes of one convolution."""

    geometry: Geometry
    batch: int
    in_channels: int
    out_channels: int
    size: tuple[int, int]
    with_bias: bool
    seed: int

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of the input."""
        return (self.batch, self.in_channels, *self.size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of one kernel."""
        return (self.out_channels, self.in_channels // self.geometry.groups, *self.geometry.kernel_size)


@st.composite
def convolutions(draw: Any, max_batch: int = 4) -> Convolution:
    """A random convolution: odd sizes, stride, dilation, padding; one group, several, or depthwise."""
    small = st.integers(1, 3)
    kernel = draw(st.one_of(st.just((1, 1)), st.tuples(small, small)))
    stride, dilation = draw(st.tuples(small, small)), draw(st.tuples(small, small))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    reach = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    groups, inner = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return Convolution(
        geometry=Geometry(kernel, stride, padding, dilation, groups),
        batch=draw(st.integers(1, max_batch)),
        in_channels=groups * inner,
        out_channels=groups * draw(st.integers(1, 3)),
        size=(max(1, reach[0]) + draw(st.integers(0, 6)), max(1, reach[1]) + draw(st.integers(0, 6))),
        with_bias=draw(st.booleans()),
        seed=draw(st.integers(0, 2**20)),
    )
