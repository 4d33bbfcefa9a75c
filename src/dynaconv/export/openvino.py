"""OpenVINO's intermediate representation, checked in its CPU runtime."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynaconv.export import _openvino_run
from dynaconv.export._child import Child
from dynaconv.export._dcd_form import in_runtime_form
from dynaconv.export._native_form import checked_extension, in_native_form, native_notes, openvino_reader
from dynaconv.export.capture import Capture, FreeSize
from dynaconv.export.onnx import write_onnx
from dynaconv.export.packages import require, versioned
from dynaconv.export.pipeline import Format, export_as, no_notes
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
    native: bool = False,
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
        native: As for `export_onnx`; the library is ``dynaconv.native.extension("openvino")``.

    Returns:
        As for `export_onnx`.

    Raises:
        ExportError: As for `export_onnx`.
    """
    require("onnx", "onnxscript", "openvino", what="export_openvino")
    return export_as(
        openvino_format(rewrite=rewrite, native=native),
        model,
        path,
        example,
        free_batch=free_batch,
        free_size=free_size,
        overwrite=overwrite,
    )


def openvino_format(*, rewrite: bool = True, native: bool = False) -> Format:
    """How OpenVINO's files are written and run."""
    library = checked_extension("openvino") if native else None

    def prepare(network: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
        network = in_native_form(network, inputs) if native else network
        return in_runtime_form(network, channels_last=True) if rewrite else network

    return Format(
        name="OpenVINO IR (native kernels)" if native else "OpenVINO IR",
        runtime=versioned("openvino", "OpenVINO"),
        suffixes=(".xml",),
        write=partial(write_openvino, library=library),
        load=partial(load_openvino, library=library),
        companions=(".bin",),
        prepare=prepare,
        notes=partial(native_notes, "Core.add_extension", "openvino") if native else no_notes,
    )


def write_openvino(recorded: Capture, file: Path, *, library: Path | None = None) -> None:
    """Write a recorded network as OpenVINO's two files; one with native programs needs the library for them."""
    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder) / "model.onnx"
        write_onnx(recorded, between, native=library is not None)
        convert_onnx_file(between, file, library=library)


def convert_onnx_file(source: Path, file: Path, *, library: Path | None = None) -> None:
    """Turn an ONNX file into OpenVINO's two files, in the precision it has."""
    (openvino,) = require("openvino", what="OpenVINO's files")
    readers = None if library is None else openvino_reader(library)
    openvino.save_model(openvino.convert_model(source, extension=readers), file, compress_to_fp16=False)


def load_openvino(file: Path, *, library: Path | None = None) -> Run:
    """Open OpenVINO's files on the CPU, computing in float32, with an extension where they need one.

    They are compiled and run in a process of their own: there are networks and processors for which OpenVINO crashes.
    """
    child = Child(_openvino_run.load, file, library)

    def run(*inputs: Tensor) -> Any:
        return child(*(each.numpy() for each in inputs))

    return run
