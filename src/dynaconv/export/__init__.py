"""Exports networks to other runtimes; a file is kept only if its outputs in that runtime match the network's.

Importing this package needs only torch. Each export function imports the packages of its format when it is called.
"""

from dynaconv.export.aot import export_aoti
from dynaconv.export.image_info import ImageInfo
from dynaconv.export.int8_onnx import quantize_onnx
from dynaconv.export.int8_openvino import quantize_openvino
from dynaconv.export.int8_report import Int8Report
from dynaconv.export.onnx import export_onnx
from dynaconv.export.openvino import export_openvino
from dynaconv.export.program import export_program
from dynaconv.export.report import Check, ExportReport
from dynaconv.export.target import verified_target
from dynaconv.export.verify import verify

__all__ = [
    "Check",
    "ExportReport",
    "ImageInfo",
    "Int8Report",
    "export_aoti",
    "export_onnx",
    "export_openvino",
    "export_program",
    "quantize_onnx",
    "quantize_openvino",
    "verified_target",
    "verify",
]
