"""Compares the outputs of an exported file with the network's, and raises an error if they differ."""

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from dynaconv.errors import ExportError, received, with_article
from dynaconv.export.report import Check
from dynaconv.families.contract.checks import check_choice

LIMIT = 1e-4
"""Largest accepted difference of a float32 runtime from the network: ``max|a - b| / max|b|`` of each output."""
Precision = Literal["float32", "float16", "bfloat16"]
LIMITS: dict[Precision, float] = {"float32": LIMIT, "float16": 1e-2, "bfloat16": 5e-2}
"""As `LIMIT`, by the precision of the file, or of the runtime if that is lower."""
BATCHES = (1, 3)
# Size of a rounding error in each precision, relative to one in float32.
_ROUNDING_SCALES: dict[Precision, int] = {"float32": 1, "float16": 2**13, "bfloat16": 2**16}
# Largest ratio of a difference to the network's own rounding error, float32 against float64, that rounding can explain.
# Two float32 computations differ from each other by a few times as much as either from float64.
_MAX_ROUNDING_RATIO = 20
# The source location with which OpenVINO's messages begin.
_SOURCE_LOCATION = re.compile(r"Exception from \S+:\d+:?")
Run = Callable[..., Any]
"""Runs the file: takes the model's inputs as tensors, returns tensors or arrays, as the model does or as a flat list.
"""


def verify(
    run: Run,
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    *,
    runtime: str,
    batches: Sequence[int] = BATCHES,
    sizes: Sequence[tuple[int, int] | None] = (None,),
    precision: Precision = "float32",
    seed: int = 0,
) -> tuple[Check, ...]:
    """Run the written file and the network on the same random inputs and compare their outputs.

    Args:
        run: Runs the file.
        model: The network, in eval mode.
        example: Inputs of the network, each ``(B, ...)``; `random_inputs` draws the inputs of the checks from them.
        runtime: Name of the runtime, for messages.
        batches: Batch sizes.
        sizes: Heights and widths; None is the size of the example. The first size is checked at every batch size, the
            others only at the last batch size.
        precision: Precision of the file, or of the runtime if that is lower; `LIMITS` has the largest accepted
            difference for each.
        seed: Seed of the random inputs.

    If a check fails on inputs for which the network's own rounding errors exceed a quarter of the limit, the failure
    does not show an error of the runtime. Then inputs with smaller rounding errors are drawn once, and `Check.redrawn`
    is True.

    Returns:
        One check per run, in the order of ``batches``, then of the further ``sizes``.

    Raises:
        ExportError: The file cannot be run, its outputs differ in number or shape, or their difference exceeds
            the limit. The message says whether the cause is the runtime or the network's own rounding errors.
    """
    check_choice("precision", precision, LIMITS)
    batches, sizes = tuple(batches), tuple(sizes)
    if not batches or not sizes or not isinstance(seed, int):
        raise ValueError(
            f"`batches` and `sizes` need at least one value, and `seed` is an integer; got {received(batches)}, "
            f"{received(sizes)} and {received(seed)}."
        )
    limit, scale = LIMITS[precision], _ROUNDING_SCALES[precision]
    shapes = [(batch, sizes[0]) for batch in batches] + [(batches[-1], size) for size in sizes[1:]]
    checks: list[Check] = []
    for batch, size in shapes:
        inputs = random_inputs(example, batch, size, seed=seed + len(checks))
        difference, want = _compare(run, model, inputs, runtime)
        redrawn = False
        # `not <=` also rejects NaN.
        if (
            not difference <= limit
            and (rounding := rounding_error(model, inputs, want)) is not None
            and scale * rounding > limit / 4
        ):
            stable = _stable_inputs(model, example, batch, size, seed + len(checks), limit / 4 / scale)
            if stable is not None:
                redrawn, inputs = True, stable
                difference, want = _compare(run, model, inputs, runtime)
        if not difference <= limit:
            raise ExportError(_difference_message(difference, model, inputs, want, runtime, precision))
        checks.append(
            Check(shapes=tuple(tuple(tensor.shape) for tensor in inputs), difference=difference, redrawn=redrawn)
        )
    return tuple(checks)


def _compare(run: Run, model: nn.Module, inputs: tuple[Tensor, ...], runtime: str) -> tuple[float, Any]:
    """Return the largest difference on these inputs, and the network's outputs."""
    with torch.no_grad():
        want = model(*inputs)
    try:
        got = run(*inputs)
    except Exception as error:
        raise ExportError(
            f"{runtime} cannot run the exported file at {_shapes(inputs)}: {first_line(error)}"
        ) from error
    return largest_difference(got, want, f"{runtime} at {_shapes(inputs)}"), want


def random_inputs(
    example: Tensor | Sequence[Tensor], batch: int, size: tuple[int, int] | None = None, *, seed: int = 0
) -> tuple[Tensor, ...]:
    """Draw inputs like ``example`` for a batch size and an image size.

    Images are those of the example, shifted cyclically, with each channel scaled by a random factor from 0.5 to 1. So
    they resemble the example, but dynamic branches get different inputs. Other inputs are random values of the example.
    If a floating-point input is constant, normally distributed values replace it.

    Args:
        example: Inputs ``(B, ...)``.
        batch: Number of samples to draw.
        size: Height and width for inputs with four axes; None keeps those of the example.
        seed: Seed of the random generator, which is on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for tensor in as_inputs(example):
        values = tensor.detach().cpu()
        shape = (batch, *values.shape[1:])
        if values.is_floating_point() and bool((values == values.reshape(-1)[0]).all()):
            values = torch.randn(values.shape, generator=generator).to(values.dtype)
        if values.dim() == 4:
            drawn.append(_shifted(values, batch, size or (values.shape[2], values.shape[3]), generator))
        else:
            drawn.append(values.reshape(-1)[torch.randint(values.numel(), shape, generator=generator)])
    return tuple(drawn)


def _shifted(images: Tensor, batch: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return ``batch`` random images, shifted cyclically, cropped or repeated to ``size``, with reduced contrast."""
    picked = images[torch.randint(images.shape[0], (batch,), generator=generator)]
    for axis, length in zip((2, 3), size, strict=True):
        offset = torch.randint(images.shape[axis], (batch, 1), generator=generator)
        index = (offset + torch.arange(length)) % images.shape[axis]  # (batch, length)
        index = index[:, None, :, None] if axis == 2 else index[:, None, None, :]
        picked = picked.gather(axis, index.expand(*picked.shape[:axis], length, *picked.shape[axis + 1 :]))
    if picked.is_floating_point():
        contrast = torch.rand(batch, images.shape[1], 1, 1, generator=generator)
        picked = picked * (0.5 + 0.5 * contrast).to(picked.dtype)
    return picked


def as_inputs(example: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the inputs of a model as a tuple, after checking them.

    Raises:
        ExportError: An input is not a tensor, is empty or has another batch size, or there is no input.
    """
    inputs = tuple(example) if isinstance(example, Sequence) and not isinstance(example, str) else (example,)
    other_types = [type(each).__name__ for each in inputs if not isinstance(each, Tensor)]
    if other_types or not inputs:
        raise ExportError(
            f"`example` must be a tensor or a tuple of tensors; got {other_types[0] if other_types else 'no tensor'}."
        )
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if not all(shape and math.prod(shape) and shape[0] == shapes[0][0] for shape in shapes):
        raise ExportError(
            f"the inputs in `example` must not be empty and must have the same batch size; got the shapes {shapes}."
        )
    return inputs


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    """Return every tensor in a model's outputs, in order, by a name: its key, or ``output`` and its position.

    Raises:
        ExportError: The outputs contain something other than tensors, and dictionaries, lists and tuples of them.
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
            f"the model returns {with_article(type(value).__name__)}; only tensors, and dictionaries, lists and tuples "
            f"of them, can be exported."
        )


def largest_difference(got: Any, want: Any, where: str) -> float:
    """Return ``max|got - want| / max|want|``, the largest over the outputs, which are compared in order.

    If an expected output is all zeros, the absolute difference is used. If any output contains NaN or infinity, the
    result is NaN or infinity.

    Raises:
        ExportError: The outputs differ in number or shape.
    """
    expected_outputs = named_outputs(want)
    arrays = list(_arrays(got))
    if len(arrays) != len(expected_outputs):
        raise ExportError(f"{where} gives {len(arrays)} outputs; the network gives {len(expected_outputs)}.")
    worst = 0.0
    for (name, expected), array in zip(expected_outputs.items(), arrays, strict=True):
        actual = torch.as_tensor(array).detach().cpu()
        if actual.shape != expected.shape:
            raise ExportError(
                f"{where} gives {name!r} the shape {tuple(actual.shape)}; the network gives it {tuple(expected.shape)}."
            )
        if expected.numel():
            difference = _difference(actual.double(), expected.detach().cpu().double())
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
    """Return the first informative line of an exception's message, ending with a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next(
        (line for line in lines if not _SOURCE_LOCATION.fullmatch(line)), lines[0] if lines else type(error).__name__
    )
    return text if text.endswith(".") else f"{text.rstrip(':;,')}."


def _shapes(inputs: Sequence[Tensor]) -> str:
    return " and ".join("x".join(str(axis) for axis in tensor.shape) for tensor in inputs)


def rounding_error(model: nn.Module, inputs: Sequence[Tensor], want: Any) -> float | None:
    """Return the difference of the network's float32 outputs from its float64 outputs.

    None if the network has no float32 output or does not run in float64.
    """
    if all(tensor.dtype != torch.float32 for tensor in named_outputs(want).values()):
        return None
    reference = _in_float64(model, inputs)
    return None if reference is None else largest_difference(want, reference, "float32")


def _in_float64(model: nn.Module, inputs: Sequence[Tensor]) -> Any:
    try:
        network = copy.deepcopy(model).double()
        with torch.no_grad(), _Float64():  # type: ignore[no-untyped-call]
            return network(*(x.double() if x.is_floating_point() else x for x in inputs))
    # Some operators do not support float64.
    except Exception:
        return None


class _Float64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operator in float64, even if the network requests float32."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_to_float64, (args, kwargs or {}))
        return tree_map(_to_float64, func(*args, **kwargs))


def _to_float64(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    return torch.float64 if value is torch.float32 else value


def _stable_inputs(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    batch: int,
    size: tuple[int, int] | None,
    seed: int,
    bound: float,
) -> tuple[Tensor, ...] | None:
    """Return inputs on which the network's own rounding errors are at most ``bound``; None if there are too few.

    If the network amplifies rounding errors on an input, as an untrained network can, no runtime can match its outputs.
    The choice of inputs depends only on the network.
    """
    pool = random_inputs(example, 4 * batch, size, seed=seed + 1000)
    with torch.no_grad():
        rounded = named_outputs(model(*pool))
    reference = _in_float64(model, pool)
    if reference is None or any(tensor.dim() == 0 or tensor.shape[0] != 4 * batch for tensor in rounded.values()):
        return None
    errors = torch.zeros(4 * batch, dtype=torch.float64)
    for got, want in zip(rounded.values(), named_outputs(reference).values(), strict=True):
        if got.numel():
            error = (got.double() - want).reshape(4 * batch, -1).abs().amax(1)
            # Relative to each sample's own scale, because the other samples of its batch are not chosen yet.
            errors = torch.maximum(errors, error / want.reshape(4 * batch, -1).abs().amax(1).clamp(min=1e-300))
    chosen = errors.argsort()[:batch]
    if not float(errors[chosen].max()) <= bound:
        return None
    return tuple(tensor[chosen] for tensor in pool)


def _difference_message(
    difference: float,
    model: nn.Module,
    inputs: Sequence[Tensor],
    want: Any,
    runtime: str,
    precision: Precision,
) -> str:
    """Return the message for a difference above the limit, with its cause and a remedy."""
    if not all(bool(tensor.isfinite().all()) for tensor in named_outputs(want).values()):
        return (
            f"the network itself gives NaN or infinite outputs at {_shapes(inputs)}, so {runtime} cannot be compared "
            f"with it; train it, or give an `example` in the value range that it expects."
        )
    limit, scale = LIMITS[precision], _ROUNDING_SCALES[precision]
    rounding = rounding_error(model, inputs, want)
    if rounding is not None and scale * rounding > limit / 4 and difference <= _MAX_ROUNDING_RATIO * scale * rounding:
        return (
            f"the network is too sensitive to rounding to be verified: at {_shapes(inputs)} its own outputs differ by "
            f"{rounding:.1e} of the largest between float32 and float64{_in_precision(precision)}, and {runtime} "
            f"differs from it by {difference:.1e}, more than {limit:.0e}; train it, or run it on some images in train "
            f"mode to set the statistics of its normalisation layers, and give real inputs as `example`."
        )
    cause = (
        f"rounding does not explain it, since the network's own outputs differ by {rounding:.1e} between float32 and "
        f"float64"
        if rounding is not None
        else "whether rounding explains it is unknown, since the network does not run in float64"
    )
    return (
        f"{runtime} differs from the network by {difference:.1e} of the largest output at {_shapes(inputs)}, more than "
        f"{limit:.0e}; {cause}. Nothing was written; try another format, or another version of the runtime or PyTorch."
    )


def _in_precision(precision: Precision) -> str:
    """Return how much larger rounding errors are in a half precision than in float32, for a message."""
    scale = _ROUNDING_SCALES[precision]
    return "" if scale == 1 else f", and rounding errors in {precision} are {scale} times as large"
