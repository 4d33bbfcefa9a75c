"""The export steps that all formats share: copy, trace, write, verify, and move the file to its path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dynaconv.deployment.deploy import deployed_layers
from dynaconv.errors import ExportError
from dynaconv.export._failing_layer import layer_in_message
from dynaconv.export.capture import Capture, FreeSize, capture, cause, frozen_copy, other_size, outputs_of
from dynaconv.export.report import Check, ExportReport
from dynaconv.export.target import verified_target
from dynaconv.export.verify import BATCHES, LIMIT, Run, as_inputs, first_line, random_inputs, verify
from dynaconv.interrupts import propagating_interrupts


def no_notes(captured: Capture) -> tuple[str, ...]:
    """Return no notes."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Format:
    """The functions that write and load files of one format, and the properties of the format.

    Attributes:
        name: Name in the report.
        runtime: Name of the runtime that `load` uses.
        suffixes: The file endings that a path may have.
        write: Writes a traced network to a path, and next to it the further files that the format may have.
        load: Loads the written file, for `verify`.
        companions: Suffixes of the further files.
        limit: Largest difference that `verify` accepts.
        prepare: Takes a network with deployed layers and its example inputs, and returns the network in the form that
            the runtime computes fastest. The file is written from this form and verified against the original network.
        notes: Returns notes for the report on how to use the file of a traced network.
    """

    name: str
    runtime: str
    suffixes: tuple[str, ...]
    write: Callable[[Capture, Path], object]
    load: Callable[[Path], Run]
    companions: tuple[str, ...] = ()
    limit: float = LIMIT
    prepare: Callable[[nn.Module, tuple[Tensor, ...]], nn.Module] = lambda network, inputs: network
    notes: Callable[[Capture], tuple[str, ...]] = no_notes


def export_as(
    file_format: Format,
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    free_batch: bool = True,
    free_size: FreeSize = "auto",
    overwrite: bool = False,
    batches: Sequence[int] = BATCHES,
) -> ExportReport:
    """Export a network in one format; see the public functions for the arguments.

    Raises:
        ExportError: The path cannot be used, the network cannot be exported as requested, or the file's outputs differ
            from the network's. No file is written then.
    """
    if free_size not in (True, False, "auto"):
        raise ExportError(f"`free_size` must be True, False or 'auto'; got {free_size!r}.")
    inputs = tuple(tensor.detach().cpu() for tensor in as_inputs(example))
    batches = tuple(batches) if free_batch else (inputs[0].shape[0],)
    with verified_target(
        path, suffixes=file_format.suffixes, overwrite=overwrite, companions=file_format.companions
    ) as file:
        frozen = frozen_copy(model)
        outputs_of(frozen, random_inputs(inputs, 2) if free_batch else inputs)
        prepared = file_format.prepare(deployed_layers(frozen), inputs)
        notes: list[str] = []
        captured: Capture | None = None
        checks: tuple[Check, ...] = ()
        if free_size is not False:
            try:
                # After an interrupt, do not export again with a fixed size.
                with propagating_interrupts():
                    captured, checks = _export_free(file_format, frozen, prepared, file, inputs, free_batch, batches)
            except _FreeSizeError as error:
                if free_size is True:
                    raise ExportError(f"height and width cannot be free: {error}") from error.__cause__
                notes.append(f"height and width are fixed: {error}")
                for leftover in file.parent.iterdir():
                    leftover.unlink()
        if captured is None:
            captured = capture(prepared, inputs, free_batch=free_batch, free_size=False)
            checks = _write_and_verify(file_format, captured, frozen, file, inputs, batches)
        notes = [*file_format.notes(captured), *notes, *captured.notes]
        files = sorted((each.name for each in file.parent.iterdir()), key=lambda name: (name != file.name, name))
    folder = Path(path).expanduser().parent
    return ExportReport(
        format=file_format.name,
        runtime=file_format.runtime,
        path=folder / file.name,
        files=tuple(folder / name for name in files),
        inputs=captured.inputs,
        outputs=captured.outputs,
        free_axes=captured.free_axes,
        checks=checks,
        limit=file_format.limit,
        notes=tuple(notes),
    )


class _FreeSizeError(ExportError):
    """The image size cannot be free; an export with a fixed size may succeed."""


def _export_free(
    file_format: Format,
    frozen: nn.Module,
    prepared: nn.Module,
    file: Path,
    inputs: tuple[Tensor, ...],
    free_batch: bool,
    batches: tuple[int, ...],
) -> tuple[Capture, tuple[Check, ...]]:
    """Export with free height and width.

    Raises:
        _FreeSizeError: The network, the format or the runtime does not allow a free size.
        ExportError: The file cannot be loaded, or its outputs differ at the example's own size. A fixed size would not
            help.
    """
    other = other_size(inputs)
    if other is None:
        raise _FreeSizeError("no input has four axes (B, C, H, W).")
    try:
        with torch.no_grad():
            frozen(*random_inputs(inputs, batches[-1], other))
    except Exception as error:
        size = "x".join(map(str, other))
        raise _FreeSizeError(f"the network itself cannot be run at {size}: {first_line(error)}") from error
    try:
        captured = capture(prepared, inputs, free_batch=free_batch, free_size=True)
        _write(file_format, captured, file)
    except ExportError as error:
        raise _FreeSizeError(str(error)) from error
    run = _open(file_format, file)
    checks = verify(run, frozen, inputs, runtime=file_format.runtime, batches=batches, limit=file_format.limit)
    try:
        checks += verify(
            run,
            frozen,
            inputs,
            runtime=file_format.runtime,
            batches=batches[-1:],
            sizes=(other,),
            limit=file_format.limit,
        )
    except ExportError as error:
        raise _FreeSizeError(str(error)) from error
    return captured, checks


def _write_and_verify(
    file_format: Format,
    captured: Capture,
    frozen: nn.Module,
    file: Path,
    inputs: tuple[Tensor, ...],
    batches: tuple[int, ...],
) -> tuple[Check, ...]:
    _write(file_format, captured, file)
    run = _open(file_format, file)
    return verify(run, frozen, inputs, runtime=file_format.runtime, batches=batches, limit=file_format.limit)


def _open(file_format: Format, file: Path) -> Run:
    try:
        with propagating_interrupts():
            return file_format.load(file)
    except Exception as error:
        raise ExportError(f"{file_format.runtime} cannot load the exported file: {first_line(error)}") from error


def _write(file_format: Format, captured: Capture, file: Path) -> None:
    try:
        with propagating_interrupts():
            file_format.write(captured, file)
    except ExportError:
        raise
    except Exception as error:
        layer = layer_in_message(captured.model, captured.program, _message_with_causes(error))
        location = f" at {layer}" if layer else ""
        raise ExportError(f"the network cannot be written as {file_format.name}{location}: {cause(error)}") from error


def _message_with_causes(error: BaseException | None) -> str:
    parts = []
    while error is not None:
        parts.append(str(error))
        error = error.__cause__
    return "\n".join(reversed(parts))
