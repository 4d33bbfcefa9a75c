"""Writes a network for another runtime, and keeps the file only when that runtime computes what the network does."""

from dynaconv.export.report import Check, ExportReport
from dynaconv.export.target import verified_target
from dynaconv.export.verify import verify

__all__ = ["Check", "ExportReport", "verified_target", "verify"]
