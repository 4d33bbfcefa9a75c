"""Exports networks as OpenVINO IR files and verifies the files in OpenVINO's CPU runtime."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynaconv.deployment.backends import Precision as NativePrecision
from dynaconv.export import _openvino_run
from dynaconv.export._child import Child
from dynaconv.export._native_form import checked_extension, conversion_extensions, native_notes
from dynaconv.export._pixels import ImageForm
from dynaconv.export.capture import Capture, FreeSize
from dynaconv.export.image_info import KEYS, PREFIX, ImageInfo
from dynaconv.export.onnx import NO_IMAGES, Rewrite, check_form, native_label, write_onnx, written_form
from dynaconv.export.packages import require, versioned
from dynaconv.export.pipeline import Format, no_notes
from dynaconv.export.report import ExportReport
from dynaconv.export.verify import Precision, Run


def export_openvino(
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    batch: int | None = None,
    free_size: FreeSize = "auto",
    rewrite: Rewrite = True,
    native: bool = False,
    half: bool = False,
    precision: NativePrecision = "float32",
    info: ImageInfo | None = None,
    preprocessing: bool = False,
    overwrite: bool = False,
) -> ExportReport:
    """Write a network for OpenVINO, and keep the files only if their outputs in OpenVINO match the network's.

    The export writes two files, the graph ``*.xml`` and its weights ``*.bin``, which OpenVINO converts from an ONNX
    file. The checks compute in float32, with the option ``{"INFERENCE_PRECISION_HINT": "f32"}``. Without it OpenVINO
    computes in bfloat16 on processors that support it.

    Args:
        model, example, batch, free_size, overwrite: See `export_onnx`.
        path: The file to write, ``*.xml``.
        rewrite: See `export_onnx`.
        native: See `export_onnx`; the library is ``dynaconv.native.extension("openvino")``.
        half: Store the weights in float16. The model may be in any floating-point dtype. OpenVINO computes in the
            precision that it chooses for the processor, in which the file is then verified: the accepted difference is
            1e-2, or 5e-2 if that precision is bfloat16.
        precision: See `export_onnx`.
        info, preprocessing: See `export_onnx`; the description is written into the section ``dynaconv`` of the
            ``rt_info``.

    Returns:
        See `export_onnx`.

    Raises:
        ExportError: See `export_onnx`.
    """
    require("onnx", "onnxscript", "openvino", needed_by="export_openvino")
    check_form(rewrite, native=native, half=half, precision=precision)
    images = ImageForm.of(example, info, preprocessing=preprocessing)
    return images.export(
        openvino_format(rewrite=rewrite, native=native, half=half, weights=precision, images=images),
        model,
        path,
        example,
        batch=batch,
        free_size=free_size,
        overwrite=overwrite,
    )


def openvino_format(
    *,
    rewrite: Rewrite = True,
    native: bool = False,
    half: bool = False,
    weights: NativePrecision = "float32",
    images: ImageForm = NO_IMAGES,
) -> Format:
    """Return the format that writes, loads and runs OpenVINO IR files."""
    library = checked_extension("openvino") if native else None
    runtime, precision = versioned("openvino", "OpenVINO"), _chosen_precision() if half else "float32"

    # In float32, the rounding of the weights to float16 remains.
    rounding = {"precision": "bfloat16" if precision == "bfloat16" else "float16" if half else "float32"}
    return Format(
        name=f"OpenVINO IR{f' ({native_label(weights)})' if native else ''}{' (float16 weights)' if half else ''}",
        runtime=f"{runtime} in {precision}" if half else runtime,
        suffixes=(".xml",),
        write=partial(write_openvino, library=library, rewrite=bool(rewrite), half=half, images=images),
        load=partial(load_openvino, library=library, precision=None if half else "f32"),
        companions=(".bin",),
        notes=partial(native_notes, "Core.add_extension", "openvino") if native else no_notes,
        **rounding | written_form(rewrite=rewrite, native=native, weights=weights),
    )


def write_openvino(
    captured: Capture,
    file: Path,
    *,
    library: Path | None = None,
    rewrite: bool = False,
    half: bool = False,
    images: ImageForm = NO_IMAGES,
) -> None:
    """Write a traced network as OpenVINO's two files.

    Args:
        captured: The traced network.
        file: The file to write.
        library: The extension library if the network has native programs.
        rewrite: See `write_onnx`.
        half: Whether to store the weights in float16.
        images: See `write_onnx`.
    """
    with tempfile.TemporaryDirectory() as folder:
        onnx_file = Path(folder) / "model.onnx"
        write_onnx(captured, onnx_file, rewrite=rewrite, native=library is not None, images=images)
        convert_onnx_file(onnx_file, file, library=library, half=half)


def convert_onnx_file(source: Path, file: Path, *, library: Path | None = None, half: bool = False) -> None:
    """Convert an ONNX file to OpenVINO's two files in the same precision or, with ``half``, with float16 weights.

    The description of the images becomes the section ``dynaconv`` of the ``rt_info``.
    """
    (openvino,) = require("openvino", needed_by="OpenVINO export")
    extensions = None if library is None else conversion_extensions(library)
    model = openvino.convert_model(source, extension=extensions)
    # OpenVINO writes the metadata of an ONNX file into this section.
    copy_description(model, model, lambda key: ["framework", f"{PREFIX}.{key}"])
    save(model, file, half=half)


def save(model: Any, file: Path, *, half: bool = False) -> None:
    """Write OpenVINO's two files.

    Raises:
        OSError: The disk is full, which OpenVINO's message does not tell.
    """
    import openvino

    try:
        openvino.save_model(model, file, compress_to_fp16=half)
    except RuntimeError:
        if shutil.disk_usage(file.parent).free == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from None
        raise


def copy_description(source: Any, target: Any, place: Callable[[str], list[str]] = lambda key: [PREFIX, key]) -> None:
    """Copy the description of the images from one of OpenVINO's models to another.

    Args:
        source, target: The models.
        place: Path of an entry in the ``rt_info`` of ``source``.
    """
    for key in KEYS:
        if source.has_rt_info(place(key)):
            target.set_rt_info(source.get_rt_info(place(key)).value, [PREFIX, key])


def _chosen_precision() -> Precision:
    """Return the precision in which OpenVINO computes on this processor unless told otherwise."""
    (openvino,) = require("openvino", needed_by="OpenVINO export")
    chosen = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    precisions: dict[str, Precision] = {"bf16": "bfloat16", "f16": "float16"}
    return precisions.get(chosen, "float32")


def load_openvino(file: Path, *, library: Path | None = None, precision: str | None = "f32") -> Run:
    """Load OpenVINO's files for the CPU, with an extension library if they need one.

    They compute in ``precision``, an ``INFERENCE_PRECISION_HINT``, or in the one that OpenVINO chooses.

    A child process compiles and runs them, because OpenVINO crashes for some networks on some processors.
    """
    child = Child(_openvino_run.load, file, library, precision)

    def run(*inputs: Tensor) -> Any:
        return child(*(each.numpy() for each in inputs))

    return run
