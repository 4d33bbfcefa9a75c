"""The export steps that all formats share: copy, trace, write, verify, and move the file to its path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from dynaconv.deployment.deploy import deployed_layers
from dynaconv.errors import ExportError
from dynaconv.export._failing_layer import layer_in_message
from dynaconv.export.capture import Capture, FreeSize, capture, cause, frozen_copy, other_size, outputs_of
from dynaconv.export.report import Check, ExportReport
from dynaconv.export.target import verified_target
from dynaconv.export.verify import (
    BATCHES,
    LIMITS,
    Precision,
    Run,
    as_inputs,
    first_line,
    largest_difference,
    random_inputs,
    verify,
)
from dynaconv.families import DeployedLayer
from dynaconv.families.contract.checks import check_choice, check_integer
from dynaconv.families.contract.operator import DynamicOperator
from dynaconv.interrupts import propagating_interrupts
from dynaconv.progress import step

# Largest difference between the outputs for a batch and those for its samples one by one that rounding explains.
_SAMPLE_LIMIT = 1e-3
_LOOP_NOTE = (
    "the file computes one sample after another, in a loop; a fixed batch is as fast, and batch=1 needs no loop."
)


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
        precision: Precision of the file, which determines the largest difference that `verify` accepts.
        prepare: Takes a network with deployed layers and its example inputs, and returns the network in the form that
            is written, unless `for_one_sample` applies. The file is verified against the original network, unless
            `coarse`.
        coarse: Whether the numbers of that form differ too much from those of the network. The file is then verified
            against the form, and the report has the difference between the two.
        for_one_sample: Takes a network with deployed layers, and returns the form that the runtime computes fastest for
            a batch of one. If `write` can loop over the samples of a batch, dynamic networks that compute each sample
            by itself are written in this form; None if it cannot. The function may return None for a network that
            needs no loop, which is then written as by ``prepare``.
        notes: Returns notes for the report on how to use the file of a traced network.
        record: Adds outputs to the copy of the network that is exported, in place; see `record_layers`. The layers are
            then written as they are trained, because deployed forms have other coefficients. None adds nothing.
    """

    name: str
    runtime: str
    suffixes: tuple[str, ...]
    write: Callable[[Capture, Path], object]
    load: Callable[[Path], Run]
    companions: tuple[str, ...] = ()
    precision: Precision = "float32"
    prepare: Callable[[nn.Module, tuple[Tensor, ...]], nn.Module] = lambda network, inputs: network
    coarse: bool = False
    for_one_sample: Callable[[nn.Module], nn.Module | None] | None = None
    notes: Callable[[Capture], tuple[str, ...]] = no_notes
    record: Callable[[nn.Module], None] | None = None


def export_as(
    file_format: Format,
    model: nn.Module,
    path: str | Path,
    example: Tensor | Sequence[Tensor],
    *,
    batch: int | None = None,
    free_size: FreeSize = "auto",
    overwrite: bool = False,
    batches: Sequence[int] = BATCHES,
) -> ExportReport:
    """Export a network in one format; see the public functions for the arguments.

    Raises:
        ExportError: The path cannot be used, the network cannot be exported as requested, or the file's outputs differ
            from the network's. No file is written then.
    """
    check_choice("`free_size`", free_size, (True, False, "auto"), error=ExportError)
    if batch is not None:
        check_integer("`batch`, which is None for a free batch size,", batch, error=ExportError)
    half = file_format.precision != "float32"
    inputs = tuple(_on_cpu(tensor, half) for tensor in as_inputs(example))
    batches = tuple(batches) if batch is None else (batch,)
    with verified_target(
        path, suffixes=file_format.suffixes, overwrite=overwrite, companions=file_format.companions
    ) as file:
        frozen = frozen_copy(model, half=half)
        if file_format.record is not None:
            file_format.record(frozen)
        with step("preparing the network"):
            request = _Request.of(file_format, frozen, inputs, batch)
        notes: list[str] = []
        captured: Capture | None = None
        checks: tuple[Check, ...] = ()
        if free_size is not False:
            try:
                # After an interrupt, do not export again with a fixed size.
                with propagating_interrupts():
                    captured, checks = _export_free(request, file, batches)
            except _FreeSizeError as error:
                if free_size is True:
                    raise ExportError(f"height and width cannot be free: {error}") from error.__cause__
                notes.append(f"height and width are fixed: {error}")
                for leftover in file.parent.iterdir():
                    leftover.unlink()
        if captured is None:
            captured = request.capture(free_size=False)
            checks = _write_and_verify(request, captured, file, batches)
        if captured.samples is not None:
            notes.append(_LOOP_NOTE)
        if file_format.coarse:
            notes.append(_difference_of_form(request))
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
        limit=LIMITS[file_format.precision],
        notes=tuple(notes),
    )


def _on_cpu(tensor: Tensor, half: bool) -> Tensor:
    """Return an input on the CPU, in float32 if the file is in half precision."""
    tensor = tensor.detach().cpu()
    return tensor.float() if half and tensor.is_floating_point() else tensor


class _FreeSizeError(ExportError):
    """The image size cannot be free; an export with a fixed size may succeed."""


@dataclass(frozen=True)
class _Request:
    """A network to export: as it came, in the form to write, and how to trace it; see `capture`."""

    file_format: Format
    frozen: nn.Module
    prepared: nn.Module
    inputs: tuple[Tensor, ...]
    batch: int | None
    loop: bool

    @classmethod
    def of(cls, file_format: Format, frozen: nn.Module, inputs: tuple[Tensor, ...], batch: int | None) -> Self:
        """Choose the form of a frozen network."""
        examples = random_inputs(inputs, batch or 2)
        outputs = outputs_of(frozen, examples)
        form = deployed_layers(frozen) if file_format.record is None else frozen
        for_one_sample = file_format.for_one_sample
        if for_one_sample is not None and _computes_each_sample(frozen, form, examples, outputs):
            one_sample = for_one_sample(form)
            if one_sample is not None:
                return cls(file_format, frozen, one_sample, inputs, batch, loop=batch != 1)
        return cls(file_format, frozen, file_format.prepare(form, inputs), inputs, batch, loop=False)

    def capture(self, *, free_size: bool) -> Capture:
        with step(f"tracing the network{' with a free image size' if free_size else ''}"):
            return capture(self.prepared, self.inputs, batch=self.batch, free_size=free_size, loop=self.loop)


def _computes_each_sample(
    frozen: nn.Module, form: nn.Module, examples: tuple[Tensor, ...], outputs: dict[str, Tensor]
) -> bool:
    """Return whether a network has dynamic layers to write and computes each sample of a batch without the others.

    Args:
        frozen: The network.
        form: The network with the layers that are written.
        examples: A batch of inputs.
        outputs: The network's outputs for them.
    """
    written = DeployedLayer if form is not frozen else DynamicOperator
    if not any(isinstance(module, written) for module in form.modules()):
        return False
    count = len(examples[0])
    if not all(tensor.dim() and len(tensor) == count for tensor in outputs.values()):
        return False
    singles = [outputs_of(frozen, tuple(tensor[i : i + 1] for tensor in examples)) for i in range(count)]
    if not all(single[name].shape == (1, *tensor.shape[1:]) for name, tensor in outputs.items() for single in singles):
        return False
    joined = {name: torch.cat([single[name] for single in singles]) for name in outputs}
    return largest_difference(joined, outputs, "one sample") <= _SAMPLE_LIMIT


def _export_free(request: _Request, file: Path, batches: tuple[int, ...]) -> tuple[Capture, tuple[Check, ...]]:
    """Export with free height and width.

    Raises:
        _FreeSizeError: The network, the format or the runtime does not allow a free size.
        ExportError: The file cannot be loaded, or its outputs differ at the example's own size. A fixed size would not
            help.
    """
    file_format, frozen, inputs = request.file_format, request.frozen, request.inputs
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
        captured = request.capture(free_size=True)
        _write(file_format, captured, file)
    except ExportError as error:
        raise _FreeSizeError(str(error)) from error
    run = _open(file_format, file)
    checks = _verify(request, run, batches)
    try:
        checks += _verify(request, run, batches[-1:], other)
    except ExportError as error:
        raise _FreeSizeError(str(error)) from error
    return captured, checks


def _write_and_verify(request: _Request, captured: Capture, file: Path, batches: tuple[int, ...]) -> tuple[Check, ...]:
    _write(request.file_format, captured, file)
    return _verify(request, _open(request.file_format, file), batches)


def _verify(
    request: _Request, run: Run, batches: tuple[int, ...], size: tuple[int, int] | None = None
) -> tuple[Check, ...]:
    file_format = request.file_format
    with step(f"comparing the file in {file_format.runtime} with the network"):
        return verify(
            run,
            request.prepared if file_format.coarse else request.frozen,
            request.inputs,
            runtime=file_format.runtime,
            batches=batches,
            sizes=(size,),
            precision=file_format.precision,
        )


def _difference_of_form(request: _Request) -> str:
    examples = random_inputs(request.inputs, request.batch or 2)
    original, form = outputs_of(request.frozen, examples), outputs_of(request.prepared, examples)
    difference = largest_difference(form, original, "the form that is written")
    return (
        f"the file is compared with the network in that form, whose outputs differ by {difference:.1%} of the largest "
        "from those of the given one."
    )


def _open(file_format: Format, file: Path) -> Run:
    try:
        with propagating_interrupts(), step(f"loading the file into {file_format.runtime}"):
            return file_format.load(file)
    except Exception as error:
        raise ExportError(f"{file_format.runtime} cannot load the exported file: {first_line(error)}") from error


def _write(file_format: Format, captured: Capture, file: Path) -> None:
    try:
        with propagating_interrupts(), step(f"writing {file_format.name}"):
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
