"""The condition for the use of DCD's autograd functions."""

from torch import Tensor

from dynaconv.families.dcd.factors import DCDFactors
from dynaconv.ops.eager import trains_eagerly
from dynaconv.ops.geometry import Geometry


def supports_step(x: Tensor, factors: DCDFactors, geometry: Geometry) -> bool:
    """Whether this is a 2-D kernel with Lambda, without S, with a residual of one block, trained eagerly on the CPU."""
    return (
        factors.form == "channel"
        and factors.scale is not None
        and factors.input_scale is None
        and factors.fusion is not None
        and geometry.dense_2d
        and factors.num_blocks == 1
        and x.numel() > 0
        and trains_eagerly((x, *(part for part in factors[1:] if part is not None)), x.dtype)
    )
