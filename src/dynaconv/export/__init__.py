"""Writes a network for another runtime, and keeps the file only when that runtime computes what the network does.

Importing this package needs torch alone; a format asks for its packages when it is written.
"""

from dynaconv.export.aot import export_aoti
from dynaconv.export.onnx import export_onnx
from dynaconv.export.openvino import export_openvino
from dynaconv.export.program import export_program
from dynaconv.export.report import Check, ExportReport
from dynaconv.export.target import verified_target
from dynaconv.export.verify import verify

__all__ = [
    "Check",
    "ExportReport",
    "export_aoti",
    "export_onnx",
    "export_openvino",
    "export_program",
    "verified_target",
    "verify",
]
