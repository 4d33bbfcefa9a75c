"""Conversion of static networks to dynamic ones, and loading of published and static checkpoints."""

from dynaconv.conversion.conversion import convert, plan_conversion
from dynaconv.conversion.freeze import freeze
from dynaconv.conversion.load import LoadReport, load_published
from dynaconv.conversion.plan import ConversionPlan, PlannedLayer
from dynaconv.conversion.published_layer import published_layer
from dynaconv.conversion.record import apply_conversion, conversion_of
from dynaconv.conversion.revert import revert

__all__ = [
    "ConversionPlan",
    "LoadReport",
    "PlannedLayer",
    "apply_conversion",
    "conversion_of",
    "convert",
    "freeze",
    "load_published",
    "plan_conversion",
    "published_layer",
    "revert",
]
