"""Runs what was written beside the network, and refuses it when the two differ."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import ExportError
from dynaconv.export.report import Check

LIMIT = 1e-4
"""How far a float32 runtime may be from the network: ``max|a - b| / max|b|`` over each output."""
BATCHES = (1, 3)
Run = Callable[..., Any]
"""Runs the written file: tensors, as the model takes them, to tensors or arrays, as it gives them or in a flat list."""


def verify(
    run: Run,
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    *,
    runtime: str,
    batches: Sequence[int] = BATCHES,
    sizes: Sequence[tuple[int, int] | None] = (None,),
    limit: float = LIMIT,
    seed: int = 0,
) -> tuple[Check, ...]:
    """Run the written file and the network on the same random inputs, at every batch size and image size.

    Args:
        run: Runs the file.
        model: The network, in eval mode.
        example: Its inputs, each ``(B, ...)``; random ones are drawn like them, see `random_inputs`.
        runtime: Name of what runs the file, for the message.
        batches: Batch sizes.
        sizes: Heights and widths; None is the example's own. The first is run at every batch size, each other at the
            last.
        limit: The largest difference to accept.
        seed: Of the random inputs.

    Returns:
        One check a run, in the order of ``batches``, then of the further ``sizes``.

    Raises:
        ExportError: The file cannot be run, has other outputs or another shape, or differs by more than ``limit``.
    """
    shapes = [(batch, sizes[0]) for batch in batches] + [(batches[-1], size) for size in sizes[1:]]
    checks: list[Check] = []
    for batch, size in shapes:
        inputs = random_inputs(example, batch, size, seed=seed + len(checks))
        given = tuple(tuple(tensor.shape) for tensor in inputs)
        with torch.no_grad():
            want = model(*inputs)
        try:
            got = run(*inputs)
        except Exception as error:
            raise ExportError(f"{runtime} cannot run what was exported at {_at(given)}: {first_line(error)}") from error
        difference = largest_difference(got, want, f"{runtime} at {_at(given)}")
        # Written so that NaN is refused.
        if not difference <= limit:
            raise ExportError(
                f"{runtime} differs from the network by {difference:.1e} of the largest output at {_at(given)}, more "
                f"than {limit:.0e}; {_why(model, inputs, want, limit)}"
            )
        checks.append(Check(shapes=given, difference=difference))
    return tuple(checks)


def random_inputs(
    example: Tensor | Sequence[Tensor], batch: int, size: tuple[int, int] | None = None, *, seed: int = 0
) -> tuple[Tensor, ...]:
    """Draw inputs like ``example`` for a batch and image size.

    Values are drawn from the example's own, so that they stay in its range and of its kind; those of a floating-point
    input are weakened by a random factor a sample and channel, so that samples differ in what a dynamic branch sees.
    Where the example is constant, normal values are drawn.

    Args:
        example: Inputs ``(B, ...)``.
        batch: Samples to draw.
        size: Height and width for inputs of four axes; None keeps theirs.
        seed: Of the draw, on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for tensor in as_inputs(example):
        shape = [batch, *tensor.shape[1:]]
        if size is not None and tensor.dim() == 4:
            shape[2:] = size
        values = tensor.detach().cpu().reshape(-1)
        if values.is_floating_point() and bool((values == values[0]).all()):
            drawn.append(torch.randn(shape, generator=generator).to(tensor.dtype))
            continue
        picked = values[torch.randint(values.numel(), shape, generator=generator)]
        if picked.is_floating_point():
            contrast = torch.rand([*shape[:2], *(1 for _ in shape[2:])], generator=generator)
            picked = picked * (0.25 + 0.75 * contrast).to(picked.dtype)
        drawn.append(picked)
    return tuple(drawn)


def as_inputs(example: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The inputs of a model as a tuple, checked.

    Raises:
        ExportError: Something else than tensors, or tensors without a common batch axis.
    """
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    unlike = [type(each).__name__ for each in inputs if not isinstance(each, Tensor)]
    if unlike or not inputs:
        raise ExportError(
            f"`example` is a tensor or a tuple of tensors; got {unlike[0] if unlike else 'an empty one'}."
        )
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if not all(shape and math.prod(shape) and shape[0] == shapes[0][0] for shape in shapes):
        raise ExportError(
            f"the inputs in `example` share their first axis, the batch, and are not empty; got the shapes {shapes}."
        )
    return inputs


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    """Every tensor in what a model returned, in order, under a name: its key, or ``output`` and its position.

    Raises:
        ExportError: It holds something else than tensors, dictionaries, lists and tuples of them.
    """
    return dict(_walk(outputs, ""))


def _walk(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name or "output", value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _walk(each, f"{name}_{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for position, each in enumerate(value):
            yield from _walk(each, f"{name or 'output'}_{position}")
    elif value is not None:
        raise ExportError(
            f"the model returns a {type(value).__name__}; only tensors, and dictionaries, lists and tuples of them, "
            f"can be exported."
        )


def largest_difference(got: Any, want: Any, where: str) -> float:
    """``max|got - want| / max|want|``, the largest over the outputs, which are compared in order.

    An output that is all zeros is compared absolutely; a NaN or an infinity anywhere gives NaN or infinity, whatever
    it stands beside.

    Raises:
        ExportError: Another number of outputs, or another shape.
    """
    wanted = named_outputs(want)
    given = list(_arrays(got))
    if len(given) != len(wanted):
        raise ExportError(f"{where} gives {len(given)} outputs; the network gives {len(wanted)}.")
    worst = 0.0
    for (name, expected), raw in zip(wanted.items(), given, strict=True):
        found = torch.as_tensor(raw).detach().cpu()
        if found.shape != expected.shape:
            raise ExportError(
                f"{where} gives {name!r} with the shape {tuple(found.shape)}; the network's is {tuple(expected.shape)}."
            )
        if expected.numel():
            difference = _difference(found.double(), expected.detach().cpu().double())
            worst = difference if math.isnan(difference) else max(worst, difference)
            if math.isnan(worst):
                break
    return worst


def _arrays(value: Any) -> Iterator[Any]:
    if hasattr(value, "shape"):
        yield value
    elif value is not None:
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _arrays(each)


def _difference(got: Tensor, want: Tensor) -> float:
    error, scale = float((got - want).abs().max()), float(want.abs().max())
    return error / scale if scale else error


def first_line(error: BaseException) -> str:
    """What an exception says, in one sentence with its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if text.endswith(".") else f"{text.rstrip(':;,')}."


def _at(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " and ".join("x".join(str(axis) for axis in shape) for shape in shapes)


def _why(model: nn.Module, inputs: Sequence[Tensor], want: Any, limit: float) -> str:
    """Whether the network itself is that uncertain in its precision, which no runtime can mend."""
    if all(tensor.dtype != torch.float32 for tensor in named_outputs(want).values()):
        return "nothing was written."
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        try:
            doubled = exact(*(each.double() if each.is_floating_point() else each for each in inputs))
        except RuntimeError:
            return "nothing was written."
    own = largest_difference(want, doubled, "float32")
    if own <= limit / 4:
        return "nothing was written."
    return (
        f"the network's own rounding errors in float32 reach {own:.1e}, as they do where normalisation layers still "
        f"have fresh running statistics: train it, or pass it some images in train mode, first."
    )
