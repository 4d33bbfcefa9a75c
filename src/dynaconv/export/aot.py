"""A network compiled to machine code by AOTInductor, checked in its runtime."""

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
    free_batch: bool = True,
    free_size: FreeSize = "auto",
    overwrite: bool = False,
) -> ExportReport:
    """Compile a network for this machine's processor, and keep it only when it computes what the network does.

    The package holds a shared library and the weights. It runs from Python by ``torch._inductor.aoti_load_package`` and
    from C++ by ``torch::inductor::AOTIModelPackageLoader``, without dynaconv. It is for processors like this one's.

    Args:
        model, example, free_batch, free_size, overwrite: As for `export_onnx`.
        path: The file to write, ``*.pt2``.

    Returns:
        As for `export_onnx`.

    Raises:
        ExportError: As for `export_onnx`; also without a C++ compiler (``g++`` or ``clang++``).
    """
    if not any(shutil.which(name) for name in ("g++", "clang++", "cl")):
        raise ExportError("export_aoti needs a C++ compiler; install g++ or clang++.")
    form = Format(
        name="AOTInductor package",
        runtime=versioned("torch", "AOTInductor of PyTorch"),
        suffixes=(".pt2",),
        write=_write,
        load=_load,
    )
    return export_as(form, model, path, example, free_batch=free_batch, free_size=free_size, overwrite=overwrite)


def _write(recorded: Capture, file: Path) -> None:
    torch._inductor.aoti_compile_and_package(recorded.program, package_path=str(file))


def _load(file: Path) -> Run:
    run: Any = torch._inductor.aoti_load_package(str(file))
    return lambda *inputs: run(*inputs)
