"""Random ODConv problems: an input, logits, kernels and a geometry that fit together."""

import dataclasses
import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from dynaconv.families.odconv import ODConvCoefficients
from tests.helpers import seeded_tensors
from tests.ops.problems import Convolution, convolutions


@dataclasses.dataclass(frozen=True)
class Problem:
    """Sizes of one problem; `tensors` draws the numbers."""

    conv: Convolution
    num_kernels: int
    filtered: bool
    temperature: float

    def tensors(self) -> dict[str, Tensor]:
        """Leaves by name, scaled so that outputs are of order one."""
        conv, taps = self.conv, self.conv.geometry.num_taps
        shapes: dict[str, tuple[int, ...]] = {
            "x": conv.x_shape,
            "kernels": (self.num_kernels, *conv.weight_shape),
            "channel": (conv.batch, conv.in_channels),
        }
        if self.filtered:
            shapes["filter"] = (conv.batch, conv.out_channels)
        if taps > 1:
            shapes["spatial"] = (conv.batch, *conv.geometry.kernel_size)
        if self.num_kernels > 1:
            shapes["kernel"] = (conv.batch, self.num_kernels)
        leaves = dict(zip(shapes, seeded_tensors(list(shapes.values()), seed=conv.seed), strict=True))
        spread = {"kernels": conv.weight_shape[1] * taps}
        return {name: (t.detach() / math.sqrt(spread.get(name, 1))).requires_grad_() for name, t in leaves.items()}

    def scalar(self) -> Tensor:
        """The temperature as the layer holds it."""
        return torch.tensor(self.temperature)


def logits(tensors: dict[str, Tensor]) -> ODConvCoefficients:
    """The logits among ``tensors``."""
    return ODConvCoefficients(**{name: t for name, t in tensors.items() if name not in ("x", "kernels")})


@st.composite
def problems(draw: Any, max_batch: int = 4) -> Problem:
    """A random problem: any geometry, one kernel or several, with and without each attention."""
    return Problem(
        conv=draw(convolutions(max_batch)),
        num_kernels=draw(st.integers(1, 4)),
        filtered=draw(st.booleans()),
        temperature=draw(st.sampled_from([1.0, 0.5, 30.0])),
    )
