"""Exports networks as machine code compiled by AOTInductor, and verifies the file in AOTInductor's runtime."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import ExportError
from dynaconv.export.capture import Capture, FreeSize
from dynaconv.export.packages import versioned
from dynaconv.export.pipeline import Format, export_as
from dynaconv.export.report import ExportReport
from dynaconv.export.verify import Run


def export_aoti(
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    batch: int | None = None,
    free_size: FreeSize = "auto",
    overwrite: bool = False,
) -> ExportReport:
    """Compile a network for this machine's processor, and keep the file only if its outputs match the network's.

    The package contains a shared library and the weights. ``torch._inductor.aoti_load_package`` loads it in Python and
    ``torch::inductor::AOTIModelPackageLoader`` in C++; neither needs dynaconv. The package is for processors like this
    machine's.

    Args:
        model, example, batch, free_size, overwrite: See `export_onnx`.
        path: The file to write, ``*.pt2``.

    Returns:
        See `export_onnx`.

    Raises:
        ExportError: See `export_onnx`. Also raised if there is no C++ compiler (``g++``, ``clang++`` or ``cl``).
    """
    if not any(shutil.which(name) for name in ("g++", "clang++", "cl")):
        raise ExportError("export_aoti needs a C++ compiler; install g++ or clang++.")
    file_format = Format(
        name="AOTInductor package",
        runtime=versioned("torch", "AOTInductor of PyTorch"),
        suffixes=(".pt2",),
        write=_write,
        load=_load,
    )
    return export_as(file_format, model, path, example, batch=batch, free_size=free_size, overwrite=overwrite)


def _write(captured: Capture, file: Path) -> None:
    # In memory first, because torch's file writer ends the process when the disk is full.
    buffer = io.BytesIO()
    torch._inductor.aoti_compile_and_package(captured.program, package_path=buffer)
    file.write_bytes(buffer.getbuffer())


def _load(file: Path) -> Run:
    run: Any = torch._inductor.aoti_load_package(str(file))
    return lambda *inputs: run(*inputs)
