"""`torch.export`'s own file, checked in PyTorch."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dynaconv.export.capture import Capture, FreeSize
from dynaconv.export.packages import versioned
from dynaconv.export.pipeline import Format, export_as
from dynaconv.export.report import ExportReport
from dynaconv.export.verify import Run


def export_program(
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    free_batch: bool = True,
    free_size: FreeSize = "auto",
    overwrite: bool = False,
) -> ExportReport:
    """Write a network as a ``torch.export`` program, and keep it only when that computes what the network does.

    It needs torch alone, to write and to run: ``torch.export.load(path).module()`` computes without dynaconv.

    Args:
        model, example, free_batch, free_size, overwrite: As for `export_onnx`.
        path: The file to write, ``*.pt2``.

    Returns:
        As for `export_onnx`.

    Raises:
        ExportError: As for `export_onnx`.
    """
    form = Format(
        name="torch.export program",
        runtime=versioned("torch", "PyTorch"),
        suffixes=(".pt2",),
        write=_write,
        load=_load,
    )
    return export_as(form, model, path, example, free_batch=free_batch, free_size=free_size, overwrite=overwrite)


def _write(recorded: Capture, file: Path) -> None:
    torch.export.save(recorded.program, file)


def _load(file: Path) -> Run:
    return torch.export.load(file).module()
