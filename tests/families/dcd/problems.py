"""Random DCD problems: an input, factors and a geometry that fit together."""

import dataclasses
import math
from typing import Any

from hypothesis import strategies as st
from torch import Tensor

from dynaconv.families.dcd import DCDFactors, DCDForm
from dynaconv.ops import Geometry
from tests.helpers import seeded_tensors


@dataclasses.dataclass(frozen=True)
class Problem:
    """Sizes of one problem; `tensors` draws the numbers."""

    form: DCDForm
    geometry: Geometry
    batch: int
    in_channels: int
    out_channels: int
    size: tuple[int, int]
    blocks: int
    latent_dim: int
    latent_taps: int
    scaled: bool
    residual: bool
    input_scaled: bool
    seed: int

    def tensors(self) -> dict[str, Tensor]:
        """Leaves by name, scaled so that outputs are of order one."""
        g = self.geometry
        per_group = self.in_channels // g.groups
        latent = self.latent_taps if self.form == "depthwise" else self.latent_dim
        fusion: tuple[int, ...] = {
            "channel": (self.blocks, latent, latent),
            "joint": (self.blocks, latent, latent, self.latent_taps),
            "depthwise": (latent, latent),
        }[self.form]
        shapes: dict[str, tuple[int, ...]] = {
            "x": (self.batch, self.in_channels, *self.size),
            "weight": (self.out_channels, per_group, *g.kernel_size),
        }
        if self.scaled:
            shapes["scale"] = (self.batch, self.out_channels)
        if self.input_scaled:
            shapes["input_scale"] = (self.batch, self.in_channels)
        if self.residual:
            shapes["fusion"] = (self.batch, *fusion)
            shapes["p"] = (self.out_channels, latent)
            if self.form != "depthwise":
                shapes["q"] = (self.in_channels, latent)
            if self.form != "channel":
                shapes["r"] = (g.num_taps, self.latent_taps)
        leaves = dict(zip(shapes, seeded_tensors(list(shapes.values()), seed=self.seed), strict=True))
        spread = {"weight": per_group * g.num_taps, "p": latent, "fusion": latent, "q": self.in_channels}
        return {name: (t.detach() / math.sqrt(spread.get(name, 1))).requires_grad_() for name, t in leaves.items()}

    def factors(self, tensors: dict[str, Tensor]) -> DCDFactors:
        """The factors among ``tensors``."""
        return DCDFactors(self.form, **{name: t for name, t in tensors.items() if name != "x"})


@st.composite
def problems(draw: Any, form: DCDForm, max_batch: int = 4) -> Problem:
    """A random problem of a form: odd sizes, stride, dilation, padding, groups, blocks, latent sizes, variants."""
    small = st.integers(1, 3)
    kernel = draw(st.tuples(small, small) if form != "joint" else st.tuples(st.integers(1, 3), st.integers(2, 3)))
    stride, dilation = draw(st.tuples(small, small)), draw(st.tuples(small, small))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    reach = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = tuple(max(1, r) + draw(st.integers(0, 6)) for r in reach)
    if form == "depthwise":
        in_channels = draw(st.integers(1, 5))
        groups, blocks, out_channels = in_channels, 1, in_channels * draw(st.integers(1, 2))
    else:
        groups = draw(st.integers(1, 3))
        blocks = groups * draw(st.integers(1, 3))
        in_channels, out_channels = blocks * draw(st.integers(1, 4)), blocks * draw(st.integers(1, 4))
    variants = [(True, True, False), (False, True, False), (True, False, False), (False, False, True)]
    variant = draw(st.sampled_from([*variants, (True, True, True)]))
    return Problem(
        form=form,
        geometry=Geometry(kernel, stride, padding, dilation, groups),
        batch=draw(st.integers(1, max_batch)),
        in_channels=in_channels,
        out_channels=out_channels,
        size=size,
        blocks=blocks,
        latent_dim=draw(st.integers(1, 4)),
        latent_taps=draw(st.integers(1, kernel[0] * kernel[1])),
        scaled=variant[0],
        residual=variant[1],
        input_scaled=variant[2],
        seed=draw(st.integers(0, 2**20)),
    )
