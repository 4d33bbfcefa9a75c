"""Traces a network with `torch.export`, with a free batch size and, if the network allows it, a free image size.

The length of a free axis may differ between runs; torch calls such an axis a dynamic dimension.
"""

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
from dynaconv.export._symbolic_sizes import limited_expressions
from dynaconv.export.verify import as_inputs, first_line, named_outputs, random_inputs
from dynaconv.families.contract.checks import check_module
from dynaconv.interrupts import propagating_interrupts
from dynaconv.log_levels import raised_log_levels
from dynaconv.native.replace import restore

FreeSize = bool | Literal["auto"]
_MIN_TRACED_SIDE = 96
"""Shortest side, in pixels, of the images with which a free size is traced. A network with stride 32 then has final
feature maps of 3x3 or larger. With maps of 2x2 or smaller, torch.export would record guards that bound the image size.
"""
_AXES = ("batch", None, "height", "width")


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A network traced by `torch.export`.

    Attributes:
        model: The copy that was traced, in eval mode.
        program: The exported program.
        inputs: Shape of each input, by the input's name; a free axis is given by its name.
        outputs: Name of each output.
        symbols: Name of each free axis, by its symbol in the program.
        notes: One sentence for each free axis with a limited range.
        samples: None if the program computes a whole batch. If it computes one sample, over which the file loops: the
            batch size of the file, or ``batch`` if it is free.
    """

    model: nn.Module
    program: torch.export.ExportedProgram
    inputs: dict[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    symbols: dict[str, str]
    notes: tuple[str, ...]
    samples: int | str | None = None

    @property
    def free_axes(self) -> tuple[str, ...]:
        """The free axes among ``batch``, ``height`` and ``width``, in this order."""
        free = {axis for shape in self.inputs.values() for axis in shape}
        return tuple(axis for axis in ("batch", "height", "width") if axis in free)


def frozen_copy(model: nn.Module, *, half: bool = False) -> nn.Module:
    """Return a copy of ``model`` on the CPU, in eval mode and without gradients; ``model`` itself does not change.

    The copy has the original modules in place of native programs, because other runtimes cannot run native programs.

    Args:
        model: The network.
        half: Accept tensors in half precision; the copy has them in float32.

    Raises:
        ExportError: The model cannot be copied, is on the meta device, or has tensors in half precision without `half`.
    """
    check_module(model)
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise ExportError("the model has tensors without values (device 'meta'); load its weights first.")
    halves = {tensor.dtype for tensor in tensors if tensor.is_floating_point() and tensor.dtype.itemsize < 4}
    if halves and not half:
        raise ExportError(
            f"the model has tensors in {min(map(str, halves))}; call model.float() to export it in float32, or pass "
            f"half=True to export_onnx or export_openvino."
        )
    try:
        frozen = copy.deepcopy(model)
    except Exception as error:
        raise ExportError(f"the model cannot be copied, and an export needs a copy: {first_line(error)}") from error
    frozen = restore(frozen).cpu().eval().requires_grad_(False)
    return frozen.float() if halves else frozen


def capture(
    frozen: nn.Module,
    example: Tensor | Sequence[Tensor],
    *,
    batch: int | None = None,
    free_size: bool = False,
    loop: bool = False,
) -> Capture:
    """Trace a network.

    Args:
        frozen: The network, as returned by `frozen_copy`.
        example: Its inputs, ``(B, ...)``; a batch size of 1 is enough.
        batch: Length of the first axis of every input; None leaves it free.
        free_size: Leave the last two axes of every input with four axes free.
        loop: Trace one sample. The file must then loop over the batch, see `Capture.samples`.

    Raises:
        ExportError: The network cannot be traced with these free axes; the message names the cause and, if known, the
            layer.
    """
    examples = as_inputs(example)
    size = _traced_size(examples) if free_size else None
    # The batch size is 2, because torch.export fixes axes of length 1.
    inputs = random_inputs(examples, 1 if loop else batch or 2, size)
    outputs = outputs_of(frozen, inputs)
    free = [_free_axes(tensor, batch is None and not loop, free_size) for tensor in inputs]
    dims = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) or None for axes in free)

    def trace() -> torch.export.ExportedProgram:
        with propagating_interrupts(), torch.no_grad(), _without_solver_warnings(), limited_expressions(frozen):
            return torch.export.export(frozen, inputs, dynamic_shapes=dims, strict=False)

    try:
        program = trace()
    except ExportError:
        raise
    except Exception as error:
        layer = layer_at_failure(frozen, trace)
        location = f" at {layer}" if layer else ""
        raise ExportError(f"the network cannot be traced{location}: {cause(error)}") from error
    symbols, notes = _symbols(program, free)
    names = _input_names(frozen, len(inputs))
    samples = ("batch" if batch is None else batch) if loop else None
    shapes = {}
    for name, tensor, axes in zip(names, inputs, free, strict=True):
        first, *others = (axes.get(axis, length) for axis, length in enumerate(tensor.shape))
        shapes[name] = (samples or first, *others)
    return Capture(
        model=frozen,
        program=program,
        inputs=shapes,
        outputs=tuple(outputs),
        symbols=symbols,
        notes=tuple(notes),
        samples=samples,
    )


def _without_solver_warnings() -> AbstractContextManager[None]:
    """Hide torch's warnings, with tracebacks, that it could not simplify a bound of a free axis; tracing continues."""
    return raised_log_levels("torch.fx.experimental.symbolic_shapes", level=logging.ERROR)


def cause(error: BaseException) -> str:
    """Return the root cause of an exporter's exception, in one sentence."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    if any("data-dependent" in str(each) or "DataDependent" in type(each).__name__ for each in chain):
        return (
            "its control flow or a shape depends on the values of its input; use tensor operations such as torch.where."
        )
    return first_line(chain[-1])


def other_size(example: Tensor | Sequence[Tensor]) -> tuple[int, int] | None:
    """Return a second height and width to check a free image size with; None if no input has four axes.

    The example's height and width grow by s and 2 s, where s is the largest power of two up to 32 that divides both.
    Networks that halve and then double the size of feature maps need such multiples.
    """
    images = [tensor for tensor in as_inputs(example) if tensor.dim() == 4]
    if not images:
        return None
    height, width = images[0].shape[2:]
    step = next(size for size in (32, 16, 8, 4, 2, 1) if height % size == 0 and width % size == 0)
    return height + step, width + 2 * step


def _traced_size(inputs: tuple[Tensor, ...]) -> tuple[int, int] | None:
    """Return the smallest multiple of the example's size that `_MIN_TRACED_SIDE` allows; None without images."""
    images = [tensor for tensor in inputs if tensor.dim() == 4]
    if not images:
        return None
    height, width = images[0].shape[2:]
    factor = -(-_MIN_TRACED_SIDE // min(height, width))
    return height * factor, width * factor


def _free_axes(tensor: Tensor, free_batch: bool, free_size: bool) -> dict[int, str]:
    axes = [0] if free_batch else []
    axes += [2, 3] if free_size and tensor.dim() == 4 else []
    return {axis: str(_AXES[axis]) for axis in axes}


def outputs_of(frozen: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return the outputs of a network by their names.

    Raises:
        ExportError: The network cannot be run on these inputs.
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
    """Return the name of each free axis by its symbol, and a note for each axis with a limited range."""
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
            bounds = next((bounds for each, bounds in program.range_constraints.items() if str(each) == symbol), None)
            if bounds is not None and (note := _range_note(label, bounds)):
                notes.append(note)
    return symbols, notes


def _range_note(label: str, bounds: Any) -> str:
    """Return a note on the range of an axis; empty if the axis may have any positive length.

    torch.export gives a free axis the lower bound 2, but the axis may still have the length 1.
    """
    lower = int(bounds.lower) if bounds.lower > 2 else 1
    # The upper bound of an unbounded range is an infinity, not an integer.
    bounded = bounds.upper.is_Integer and int(bounds.upper) < 2**31
    if lower == 1 and not bounded:
        return ""
    lengths = f"from {lower} to {int(bounds.upper)}" if bounded else f"of {lower} or more"
    return f"the {label} was traced for lengths {lengths}."
