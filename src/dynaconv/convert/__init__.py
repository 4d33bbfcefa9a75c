"""From networks that exist to dynamic ones: conversion, deployment, and published and static checkpoints."""

from dynaconv.convert.conversion import convert, plan_conversion
from dynaconv.convert.deploy import DeploymentPlan, deploy, plan_deployment
from dynaconv.convert.load import LoadReport, load_published
from dynaconv.convert.plan import ConversionPlan, PlannedLayer
from dynaconv.convert.record import apply_conversion, conversion_of
from dynaconv.convert.revert import revert

__all__ = [
    "ConversionPlan",
    "DeploymentPlan",
    "LoadReport",
    "PlannedLayer",
    "apply_conversion",
    "conversion_of",
    "convert",
    "deploy",
    "load_published",
    "plan_conversion",
    "plan_deployment",
    "revert",
]
