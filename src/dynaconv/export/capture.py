"""Records a network as a `torch.export` program whose batch, and image size where the network allows it, stay free."""

import copy
import inspect
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynaconv.errors import ExportError
from dynaconv.export._failing_layer import layer_at_failure
from dynaconv.export._symbolic_sizes import bounded_growth
from dynaconv.export.verify import as_inputs, first_line, named_outputs, random_inputs
from dynaconv.interrupts import passing_interrupts
from dynaconv.log_levels import quiet_loggers
from dynaconv.native.replace import restore

FreeSize = bool | Literal["auto"]
_ROOMY = 96
_AXES = ("batch", None, "height", "width")


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A recorded network.

    Attributes:
        model: The copy that was recorded, in eval mode.
        program: The record.
        inputs: Name of each input and its shape, a free axis by its name.
        outputs: Name of each output.
        symbols: The program's symbol for each free axis, and the axis it stands for.
        notes: What limits a free axis.
    """

    model: nn.Module
    program: torch.export.ExportedProgram
    inputs: dict[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    symbols: dict[str, str]
    notes: tuple[str, ...]

    @property
    def free_axes(self) -> tuple[str, ...]:
        """The free ones of batch, height and width."""
        free = {axis for shape in self.inputs.values() for axis in shape}
        return tuple(axis for axis in ("batch", "height", "width") if axis in free)


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` on the CPU, in eval mode and without gradients, so that the model itself is never touched.

    Native programs, of which other runtimes know nothing, give way to what they replaced.

    Raises:
        ExportError: It cannot be copied, lies on no device, or computes in half precision.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise ExportError("the model has no numbers in it (device 'meta'); load its weights first.")
    halves = {tensor.dtype for tensor in tensors if tensor.is_floating_point() and tensor.dtype.itemsize < 4}
    if halves:
        raise ExportError(f"the model computes in {min(map(str, halves))}; export it in float32, after model.float().")
    try:
        frozen = copy.deepcopy(model)
    except Exception as error:
        raise ExportError(f"the model cannot be copied, which an export needs: {first_line(error)}") from error
    return restore(frozen).cpu().eval().requires_grad_(False)


def capture(
    frozen: nn.Module, example: Tensor | Sequence[Tensor], *, free_batch: bool = True, free_size: bool = False
) -> Capture:
    """Record a network.

    Args:
        frozen: The network, as `frozen_copy` gives it.
        example: Its inputs, ``(B, ...)``; a batch of one will do.
        free_batch: Leave the first axis of every input free.
        free_size: Leave the last two axes of every input of four axes free.

    Raises:
        ExportError: It cannot be recorded that way; the message names the layer and the cause.
    """
    given = as_inputs(example)
    # An axis of length one would be taken for fixed.
    size = _roomy_size(given) if free_size else None
    inputs = random_inputs(given, 2 if free_batch else given[0].shape[0], size)
    outputs = outputs_of(frozen, inputs)
    free = [_free_axes(tensor, free_batch, free_size) for tensor in inputs]
    dims = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) or None for axes in free)

    def record() -> torch.export.ExportedProgram:
        with passing_interrupts(), torch.no_grad(), _quiet_solver(), bounded_growth(frozen):
            return torch.export.export(frozen, inputs, dynamic_shapes=dims, strict=False)

    try:
        program = record()
    except ExportError:
        raise
    except Exception as error:
        layer = layer_at_failure(frozen, record)
        place = f"at {layer}" if layer else "as a whole"
        raise ExportError(f"the network cannot be recorded {place}: {cause(error)}") from error
    symbols, notes = _symbols(program, free)
    names = _input_names(frozen, len(inputs))
    shapes = {
        name: tuple(axes.get(axis, length) for axis, length in enumerate(tensor.shape))
        for name, tensor, axes in zip(names, inputs, free, strict=True)
    }
    return Capture(
        model=frozen, program=program, inputs=shapes, outputs=tuple(outputs), symbols=symbols, notes=tuple(notes)
    )


def _quiet_solver() -> AbstractContextManager[None]:
    """Silence what torch logs, as tracebacks, when it cannot simplify a bound of a free axis; it carries on without."""
    return quiet_loggers("torch.fx.experimental.symbolic_shapes", level=logging.ERROR)


def cause(error: BaseException) -> str:
    """What lies at the root of an exporter's exception, in one sentence."""
    seen = [error]
    while seen[-1].__cause__ is not None:
        seen.append(seen[-1].__cause__)
    if any("data-dependent" in str(each) or "DataDependent" in type(each).__name__ for each in seen):
        return "what it does next depends on the values of its input; use tensor operations such as torch.where."
    return first_line(seen[-1])


def other_size(example: Tensor | Sequence[Tensor]) -> tuple[int, int] | None:
    """Another height and width to check a free image size with; None where no input has four axes.

    Both stay multiples of the same power of two, up to 32, as networks that halve and double the size want it.
    """
    images = [tensor for tensor in as_inputs(example) if tensor.dim() == 4]
    if not images:
        return None
    height, width = images[0].shape[2:]
    step = next(size for size in (32, 16, 8, 4, 2, 1) if height % size == 0 and width % size == 0)
    return height + step, width + 2 * step


def _roomy_size(inputs: tuple[Tensor, ...]) -> tuple[int, int] | None:
    """A multiple of the example's size at which feature maps stay longer than two.

    At one or two the record would hold that the last maps are that short, and so bound the image size.
    """
    images = [tensor for tensor in inputs if tensor.dim() == 4]
    if not images:
        return None
    height, width = images[0].shape[2:]
    times = -(-_ROOMY // min(height, width))
    return height * times, width * times


def _free_axes(tensor: Tensor, free_batch: bool, free_size: bool) -> dict[int, str]:
    axes = [0] if free_batch else []
    axes += [2, 3] if free_size and tensor.dim() == 4 else []
    return {axis: str(_AXES[axis]) for axis in axes}


def outputs_of(frozen: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The outputs of a network by their names.

    Raises:
        ExportError: It cannot be run on these inputs.
    """
    try:
        with torch.no_grad():
            outputs = frozen(*inputs)
    except Exception as error:
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise ExportError(
            f"the network cannot be run on inputs {shapes} like `example`: {first_line(error)}"
        ) from error
    return named_outputs(outputs)


def _input_names(model: nn.Module, count: int) -> list[str]:
    if count == 1:
        return ["images"]
    named = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return named[:count] if len(named) >= count else [f"input_{position}" for position in range(count)]


def _symbols(program: torch.export.ExportedProgram, free: list[dict[int, str]]) -> tuple[dict[str, str], list[str]]:
    """Each free axis's symbol and what it stands for, and a note where its range is limited."""
    symbols: dict[str, str] = {}
    notes: list[str] = []
    values: dict[str, Any] = {
        node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"
    }
    for name, axes in zip(program.graph_signature.user_inputs, free, strict=True):
        shape = values[str(name)].shape
        for axis, label in axes.items():
            symbol = str(shape[axis])
            if symbol in symbols:
                continue
            symbols[symbol] = label
            found = next((limits for each, limits in program.range_constraints.items() if str(each) == symbol), None)
            if found is not None and (note := _limits(label, found)):
                notes.append(note)
    return symbols, notes


def _limits(label: str, limits: Any) -> str:
    """What bounds an axis beyond being positive; torch.export starts every free axis at 2 and still allows 1."""
    lower = int(limits.lower) if limits.lower > 2 else 1
    # An unbounded range ends at an infinity that is no int.
    bounded = limits.upper.is_Integer and int(limits.upper) < 2**31
    if lower == 1 and not bounded:
        return ""
    upper = f"to {int(limits.upper)}" if bounded else "up"
    return f"the {label} was recorded for lengths from {lower} {upper}."
