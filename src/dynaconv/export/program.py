"""Exports networks as `torch.export` programs and verifies the files in PyTorch."""

import io
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
    batch: int | None = None,
    free_size: FreeSize = "auto",
    overwrite: bool = False,
) -> ExportReport:
    """Write a network as a ``torch.export`` program, and keep it only if its outputs match the network's.

    The export needs only torch, and so does the file: ``torch.export.load(path).module()`` runs without dynaconv.

    Args:
        model, example, batch, free_size, overwrite: See `export_onnx`.
        path: The file to write, ``*.pt2``.

    Returns:
        See `export_onnx`.

    Raises:
        ExportError: See `export_onnx`.
    """
    file_format = Format(
        name="torch.export program",
        runtime=versioned("torch", "PyTorch"),
        suffixes=(".pt2",),
        write=_write,
        load=_load,
    )
    return export_as(file_format, model, path, example, batch=batch, free_size=free_size, overwrite=overwrite)


def _write(captured: Capture, file: Path) -> None:
    # In memory first, because torch's file writer ends the process when the disk is full.
    buffer = io.BytesIO()
    torch.export.save(captured.program, buffer)
    file.write_bytes(buffer.getbuffer())


def _load(file: Path) -> Run:
    return torch.export.load(file).module()
