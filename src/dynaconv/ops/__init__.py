"""Operators that the families share, and their cost model. This package imports only torch."""

from dynaconv.ops.context import pool_context
from dynaconv.ops.cost import DEFAULT_MACHINE, Cost, Machine, cheapest
from dynaconv.ops.exporting import is_exporting
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.per_sample import per_sample_conv2d
from dynaconv.ops.precision import full_precision
from dynaconv.ops.shared import shared_conv2d

__all__ = [
    "DEFAULT_MACHINE",
    "Cost",
    "Geometry",
    "Machine",
    "cheapest",
    "full_precision",
    "is_exporting",
    "per_sample_conv2d",
    "pool_context",
    "shared_conv2d",
]
