"""Exports networks as OpenVINO IR files and verifies the files in OpenVINO's CPU runtime."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynaconv.export import _openvino_run
from dynaconv.export._child import Child
from dynaconv.export._native_form import checked_extension, conversion_extensions, native_notes
from dynaconv.export.capture import Capture, FreeSize
from dynaconv.export.onnx import write_onnx, written_form
from dynaconv.export.packages import require, versioned
from dynaconv.export.pipeline import Format, export_as, no_notes
from dynaconv.export.report import ExportReport
from dynaconv.export.verify import Run


def export_openvino(
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    batch: int | None = None,
    free_size: FreeSize = "auto",
    rewrite: bool = True,
    native: bool = False,
    overwrite: bool = False,
) -> ExportReport:
    """Write a network for OpenVINO, and keep the files only if their outputs in OpenVINO match the network's.

    The export writes two files in float32, the graph ``*.xml`` and its weights ``*.bin``, which OpenVINO converts from
    an ONNX file. The checks compute in float32, with the option ``{"INFERENCE_PRECISION_HINT": "f32"}``. Without it
    OpenVINO computes in bfloat16 on processors that support it.

    Args:
        model, example, batch, free_size, overwrite: See `export_onnx`.
        path: The file to write, ``*.xml``.
        rewrite: See `export_onnx`.
        native: See `export_onnx`; the library is ``dynaconv.native.extension("openvino")``.

    Returns:
        See `export_onnx`.

    Raises:
        ExportError: See `export_onnx`.
    """
    require("onnx", "onnxscript", "openvino", needed_by="export_openvino")
    return export_as(
        openvino_format(rewrite=rewrite, native=native),
        model,
        path,
        example,
        batch=batch,
        free_size=free_size,
        overwrite=overwrite,
    )


def openvino_format(*, rewrite: bool = True, native: bool = False) -> Format:
    """Return the format that writes, loads and runs OpenVINO IR files."""
    library = checked_extension("openvino") if native else None

    return Format(
        name="OpenVINO IR (native kernels)" if native else "OpenVINO IR",
        runtime=versioned("openvino", "OpenVINO"),
        suffixes=(".xml",),
        write=partial(write_openvino, library=library, rewrite=rewrite),
        load=partial(load_openvino, library=library),
        companions=(".bin",),
        notes=partial(native_notes, "Core.add_extension", "openvino") if native else no_notes,
        **written_form(rewrite=rewrite, native=native),
    )


def write_openvino(captured: Capture, file: Path, *, library: Path | None = None, rewrite: bool = False) -> None:
    """Write a traced network as OpenVINO's two files.

    Args:
        captured: The traced network.
        file: The file to write.
        library: The extension library if the network has native programs.
        rewrite: See `write_onnx`.
    """
    with tempfile.TemporaryDirectory() as folder:
        onnx_file = Path(folder) / "model.onnx"
        write_onnx(captured, onnx_file, rewrite=rewrite, native=library is not None)
        convert_onnx_file(onnx_file, file, library=library)


def convert_onnx_file(source: Path, file: Path, *, library: Path | None = None) -> None:
    """Convert an ONNX file to OpenVINO's two files in the same precision."""
    (openvino,) = require("openvino", needed_by="OpenVINO export")
    extensions = None if library is None else conversion_extensions(library)
    openvino.save_model(openvino.convert_model(source, extension=extensions), file, compress_to_fp16=False)


def load_openvino(file: Path, *, library: Path | None = None) -> Run:
    """Load OpenVINO's files for the CPU in float32, with an extension library if they need one.

    A child process compiles and runs them, because OpenVINO crashes for some networks on some processors.
    """
    child = Child(_openvino_run.load, file, library)

    def run(*inputs: Tensor) -> Any:
        return child(*(each.numpy() for each in inputs))

    return run
