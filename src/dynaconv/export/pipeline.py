"""What every format does: copy, record, write, run beside the network, and only then put the file in its place."""

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
from dynaconv.interrupts import passing_interrupts


def no_notes(recorded: Capture) -> tuple[str, ...]:
    """That there is nothing to know."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one format is written and run.

    Attributes:
        name: As the report gives it.
        runtime: What `load` runs it in.
        suffixes: The endings that a path may have.
        write: Writes a recorded network to a path, with further files beside it where the format has them.
        load: Opens what was written, for `verify`.
        companions: Suffixes of those further files.
        limit: The largest difference to accept.
        prepare: Gives a network of deployed layers, whose example inputs it is told, the form that the runtime computes
            fastest; what is written is this one, what it is compared with the network as it came.
        notes: What one should know to use the file that holds a recorded network.
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
    form: Format,
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    free_batch: bool = True,
    free_size: FreeSize = "auto",
    overwrite: bool = False,
    batches: Sequence[int] = BATCHES,
) -> ExportReport:
    """Export a network in one format; the public functions say what the arguments are.

    Raises:
        ExportError: The path cannot be used, the network cannot be exported as asked, or the file computes something
            else. Nothing is written then.
    """
    if free_size not in (True, False, "auto"):
        raise ExportError(f"`free_size` is True, False or 'auto'; got {free_size!r}.")
    inputs = tuple(tensor.detach().cpu() for tensor in as_inputs(example))
    batches = tuple(batches) if free_batch else (inputs[0].shape[0],)
    with verified_target(path, suffixes=form.suffixes, overwrite=overwrite, companions=form.companions) as file:
        frozen = frozen_copy(model)
        outputs_of(frozen, random_inputs(inputs, 2) if free_batch else inputs)
        prepared = form.prepare(deployed_layers(frozen), inputs)
        notes: list[str] = []
        recorded: Capture | None = None
        checks: tuple[Check, ...] = ()
        if free_size is not False:
            try:
                # An interrupt is no reason to go on with a fixed size.
                with passing_interrupts():
                    recorded, checks = _export_free(form, frozen, prepared, file, inputs, free_batch, batches)
            except _SizeStaysFixedError as error:
                if free_size is True:
                    raise ExportError(f"height and width cannot be free: {error}") from error.__cause__
                notes.append(f"height and width are fixed: {error}")
                for left in file.parent.iterdir():
                    left.unlink()
        if recorded is None:
            recorded = capture(prepared, inputs, free_batch=free_batch, free_size=False)
            checks = _write_and_verify(form, recorded, frozen, file, inputs, batches)
        notes = [*form.notes(recorded), *notes, *recorded.notes]
        files = sorted((each.name for each in file.parent.iterdir()), key=lambda name: (name != file.name, name))
    folder = Path(path).expanduser().parent
    return ExportReport(
        format=form.name,
        runtime=form.runtime,
        path=folder / file.name,
        files=tuple(folder / name for name in files),
        inputs=recorded.inputs,
        outputs=recorded.outputs,
        free_axes=recorded.free_axes,
        checks=checks,
        limit=form.limit,
        notes=tuple(notes),
    )


class _SizeStaysFixedError(ExportError):
    """The image size cannot be free; a fixed one may do."""


def _export_free(
    form: Format,
    frozen: nn.Module,
    prepared: nn.Module,
    file: Path,
    inputs: tuple[Tensor, ...],
    free_batch: bool,
    batches: tuple[int, ...],
) -> tuple[Capture, tuple[Check, ...]]:
    """Export with free height and width.

    Raises:
        _SizeStaysFixedError: That cannot be done.
        ExportError: The file differs from the network at the example's own size, where no fixed size helps.
    """
    other = other_size(inputs)
    if other is None:
        raise _SizeStaysFixedError("no input has the four axes of images.")
    try:
        with torch.no_grad():
            frozen(*random_inputs(inputs, batches[-1], other))
    except Exception as error:
        size = "x".join(map(str, other))
        raise _SizeStaysFixedError(f"the network itself cannot be run at {size}: {first_line(error)}") from error
    try:
        recorded = capture(prepared, inputs, free_batch=free_batch, free_size=True)
        _write(form, recorded, file)
    except ExportError as error:
        raise _SizeStaysFixedError(str(error)) from error
    run = _open(form, file)
    checks = verify(run, frozen, inputs, runtime=form.runtime, batches=batches, limit=form.limit)
    try:
        checks += verify(
            run, frozen, inputs, runtime=form.runtime, batches=batches[-1:], sizes=(other,), limit=form.limit
        )
    except ExportError as error:
        raise _SizeStaysFixedError(str(error)) from error
    return recorded, checks


def _write_and_verify(
    form: Format,
    recorded: Capture,
    frozen: nn.Module,
    file: Path,
    inputs: tuple[Tensor, ...],
    batches: tuple[int, ...],
) -> tuple[Check, ...]:
    _write(form, recorded, file)
    run = _open(form, file)
    return verify(run, frozen, inputs, runtime=form.runtime, batches=batches, limit=form.limit)


def _open(form: Format, file: Path) -> Run:
    try:
        with passing_interrupts():
            return form.load(file)
    except Exception as error:
        raise ExportError(f"{form.runtime} cannot load what was exported: {first_line(error)}") from error


def _write(form: Format, recorded: Capture, file: Path) -> None:
    try:
        with passing_interrupts():
            form.write(recorded, file)
    except ExportError:
        raise
    except Exception as error:
        layer = layer_in_message(recorded.model, recorded.program, _whole_message(error))
        place = f" at {layer}" if layer else ""
        raise ExportError(f"the network cannot be written as {form.name}{place}: {cause(error)}") from error


def _whole_message(error: BaseException | None) -> str:
    parts = []
    while error is not None:
        parts.append(str(error))
        error = error.__cause__
    return "\n".join(reversed(parts))
