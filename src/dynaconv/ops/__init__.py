"""Operators that the families share, and their cost model. This package imports only torch."""

from dynaconv.ops.batched import batched_conv, batched_conv_transpose
from dynaconv.ops.context import pool_context, pool_other_axes
from dynaconv.ops.cost import DEFAULT_MACHINE, Cost, Machine, cheapest
from dynaconv.ops.exporting import is_exporting
from dynaconv.ops.geometry import (
    Geometry,
    check_output_padding,
    over_pixels,
    per_axis,
    same_padding,
    swap_channels,
    transposed_geometry,
)
from dynaconv.ops.per_sample import per_sample_conv
from dynaconv.ops.precision import full_precision
from dynaconv.ops.shared import shared_conv, static_conv

__all__ = [
    "DEFAULT_MACHINE",
    "Cost",
    "Geometry",
    "Machine",
    "batched_conv",
    "batched_conv_transpose",
    "cheapest",
    "check_output_padding",
    "full_precision",
    "is_exporting",
    "over_pixels",
    "per_axis",
    "per_sample_conv",
    "pool_context",
    "pool_other_axes",
    "same_padding",
    "shared_conv",
    "static_conv",
    "swap_channels",
    "transposed_geometry",
]
