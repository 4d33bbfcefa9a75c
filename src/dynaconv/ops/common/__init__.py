"""What at least two families use: geometry, context pooling, per-sample convolution, cost model."""

from dynaconv.ops.common.context import pool_context
from dynaconv.ops.common.cost import DEFAULT_MACHINE, Cost, Machine, cheapest, choose
from dynaconv.ops.common.exporting import is_exporting
from dynaconv.ops.common.geometry import Geometry
from dynaconv.ops.common.per_sample import per_sample_conv2d
from dynaconv.ops.common.precision import full_precision
from dynaconv.ops.common.shared import shared_conv2d

__all__ = [
    "DEFAULT_MACHINE",
    "Cost",
    "Geometry",
    "Machine",
    "cheapest",
    "choose",
    "full_precision",
    "is_exporting",
    "per_sample_conv2d",
    "pool_context",
    "shared_conv2d",
]
