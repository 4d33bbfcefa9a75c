"""OpenVINO's intermediate representation, checked in its CPU runtime."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynaconv.export._dcd_form import in_runtime_form
from dynaconv.export.capture import Capture, FreeSize
from dynaconv.export.onnx import write_onnx
from dynaconv.export.packages import require, versioned
from dynaconv.export.pipeline import Format, export_as
from dynaconv.export.report import ExportReport
from dynaconv.export.verify import Run


def export_openvino(
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    free_batch: bool = True,
    free_size: FreeSize = "auto",
    rewrite: bool = True,
    overwrite: bool = False,
) -> ExportReport:
    """Write a network for OpenVINO, and keep it only when OpenVINO computes what the network does.

    Two files are written, the graph ``*.xml`` and its weights ``*.bin``, in float32. The graph is made by way of ONNX.
    The checks ask for computation in float32, ``{"INFERENCE_PRECISION_HINT": "f32"}``; without that option OpenVINO
    takes bfloat16 on processors that have it.

    Args:
        model, example, free_batch, free_size, overwrite: As for `export_onnx`.
        path: The file to write, ``*.xml``.
        rewrite: Write 1x1 DCD layers as OpenVINO computes them fastest; False writes them as they stand, as for
            `export_onnx`.

    Returns:
        As for `export_onnx`.

    Raises:
        ExportError: As for `export_onnx`.
    """
    require("onnx", "onnxscript", "openvino", what="export_openvino")
    return export_as(
        openvino_format(rewrite=rewrite),
        model,
        path,
        example,
        free_batch=free_batch,
        free_size=free_size,
        overwrite=overwrite,
    )


def openvino_format(*, rewrite: bool = True) -> Format:
    """How OpenVINO's files are written and run."""

    def prepare(frozen: nn.Module) -> nn.Module:
        return in_runtime_form(frozen, channels_last=True) if rewrite else frozen

    return Format(
        name="OpenVINO IR",
        runtime=versioned("openvino", "OpenVINO"),
        suffixes=(".xml",),
        write=write_openvino,
        load=load_openvino,
        companions=(".bin",),
        prepare=prepare,
    )


def write_openvino(recorded: Capture, file: Path) -> None:
    """Write a recorded network as OpenVINO's two files."""
    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder) / "model.onnx"
        write_onnx(recorded, between)
        convert_onnx_file(between, file)


def convert_onnx_file(source: Path, file: Path) -> None:
    """Turn an ONNX file into OpenVINO's two files, in the precision it has."""
    (openvino,) = require("openvino", what="OpenVINO's files")
    openvino.save_model(openvino.convert_model(source), file, compress_to_fp16=False)


def load_openvino(file: Path) -> Run:
    """Open OpenVINO's files on the CPU, computing in float32."""
    (openvino,) = require("openvino", what="OpenVINO's files")
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(*inputs: Tensor) -> Any:
        results = compiled([each.numpy() for each in inputs])
        return [results[output] for output in compiled.outputs]

    return run
