"""Runs what was written beside the network, and refuses it when the two differ."""

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from dynaconv.errors import ExportError, with_article
from dynaconv.export.report import Check

LIMIT = 1e-4
"""How far a float32 runtime may be from the network: ``max|a - b| / max|b|`` over each output."""
BATCHES = (1, 3)
# Two float32 computations differ from each other by a few times as much as either from float64.
_SAME_CAUSE = 20
# With which OpenVINO begins, before it says what is wrong.
_PLACE = re.compile(r"Exception from \S+:\d+:?")
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

    An input on which the network's own rounding errors exceed a quarter of ``limit`` says nothing of the runtime; where
    that is why a check fails, other inputs are drawn once, on which they do not, and the check says so.

    Returns:
        One check a run, in the order of ``batches``, then of the further ``sizes``.

    Raises:
        ExportError: The file cannot be run, has other outputs or another shape, or differs by more than ``limit``. The
            message says whether that is the runtime's fault or due to the network's own rounding errors.
    """
    shapes = [(batch, sizes[0]) for batch in batches] + [(batches[-1], size) for size in sizes[1:]]
    checks: list[Check] = []
    for batch, size in shapes:
        inputs = random_inputs(example, batch, size, seed=seed + len(checks))
        difference, want = _compare(run, model, inputs, runtime)
        redrawn = False
        # Written so that NaN is refused.
        if not difference <= limit and (own := own_rounding(model, inputs, want)) is not None and own > limit / 4:
            steady = _steady_inputs(model, example, batch, size, seed + len(checks), limit / 4)
            if steady is not None:
                redrawn, inputs = True, steady
                difference, want = _compare(run, model, inputs, runtime)
        if not difference <= limit:
            raise ExportError(_refusal(difference, model, inputs, want, runtime, limit))
        checks.append(
            Check(shapes=tuple(tuple(tensor.shape) for tensor in inputs), difference=difference, redrawn=redrawn)
        )
    return tuple(checks)


def _compare(run: Run, model: nn.Module, inputs: tuple[Tensor, ...], runtime: str) -> tuple[float, Any]:
    """The largest difference on these inputs, and what the network gives."""
    with torch.no_grad():
        want = model(*inputs)
    try:
        got = run(*inputs)
    except Exception as error:
        raise ExportError(f"{runtime} cannot run what was exported at {_at(inputs)}: {first_line(error)}") from error
    return largest_difference(got, want, f"{runtime} at {_at(inputs)}"), want


def random_inputs(
    example: Tensor | Sequence[Tensor], batch: int, size: tuple[int, int] | None = None, *, seed: int = 0
) -> tuple[Tensor, ...]:
    """Draw inputs like ``example`` for a batch and image size.

    Images are the example's own, shifted round their edges, and each channel weakened by a random factor, so that they
    look like it and yet differ in what a dynamic branch sees. Other inputs have values of the example, picked at
    random. Where a floating-point input is constant, normal values take its place.

    Args:
        example: Inputs ``(B, ...)``.
        batch: Samples to draw.
        size: Height and width for inputs of four axes; None keeps theirs.
        seed: Of the draw, on the CPU.
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
    """``batch`` of the images, shifted round their edges or continued there to ``size``, in less contrast."""
    picked = images[torch.randint(images.shape[0], (batch,), generator=generator)]
    for axis, length in zip((2, 3), size, strict=True):
        start = torch.randint(images.shape[axis], (batch, 1), generator=generator)
        index = (start + torch.arange(length)) % images.shape[axis]  # (batch, length)
        index = index[:, None, :, None] if axis == 2 else index[:, None, None, :]
        picked = picked.gather(axis, index.expand(*picked.shape[:axis], length, *picked.shape[axis + 1 :]))
    if picked.is_floating_point():
        contrast = torch.rand(batch, images.shape[1], 1, 1, generator=generator)
        picked = picked * (0.5 + 0.5 * contrast).to(picked.dtype)
    return picked


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
            f"the model returns {with_article(type(value).__name__)}; only tensors, and dictionaries, lists and tuples "
            f"of them, can be exported."
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
    text = next((line for line in lines if not _PLACE.fullmatch(line)), lines[0] if lines else type(error).__name__)
    return text if text.endswith(".") else f"{text.rstrip(':;,')}."


def _at(inputs: Sequence[Tensor]) -> str:
    return " and ".join("x".join(str(axis) for axis in tensor.shape) for tensor in inputs)


def own_rounding(model: nn.Module, inputs: Sequence[Tensor], want: Any) -> float | None:
    """How far the network's float32 outputs are from its own in float64; None where it cannot compute in that."""
    if all(tensor.dtype != torch.float32 for tensor in named_outputs(want).values()):
        return None
    exact = _in_float64(model, inputs)
    return None if exact is None else largest_difference(want, exact, "float32")


def _in_float64(model: nn.Module, inputs: Sequence[Tensor]) -> Any:
    try:
        network = copy.deepcopy(model).double()
        with torch.no_grad(), _Float64():  # type: ignore[no-untyped-call]
            return network(*(x.double() if x.is_floating_point() else x for x in inputs))
    except Exception:  # an operator may have no float64
        return None


class _Float64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Has every operator compute in float64, also where a network asks for float32."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_widened, (args, kwargs or {}))
        return tree_map(_widened, func(*args, **kwargs))


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    return torch.float64 if value is torch.float32 else value


def _steady_inputs(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    batch: int,
    size: tuple[int, int] | None,
    seed: int,
    bound: float,
) -> tuple[Tensor, ...] | None:
    """Inputs on which the network's own rounding errors stay within ``bound``; None where there are too few.

    On an input where the network multiplies rounding errors up, as an untrained one can, no runtime can agree with it.
    The choice looks at the network alone.
    """
    pool = random_inputs(example, 4 * batch, size, seed=seed + 1000)
    with torch.no_grad():
        rounded = named_outputs(model(*pool))
    exact = _in_float64(model, pool)
    if exact is None or any(tensor.dim() == 0 or tensor.shape[0] != 4 * batch for tensor in rounded.values()):
        return None
    errors = torch.zeros(4 * batch, dtype=torch.float64)
    for got, want in zip(rounded.values(), named_outputs(exact).values(), strict=True):
        if got.numel():
            own = (got.double() - want).reshape(4 * batch, -1).abs().amax(1)
            # Against each sample's own scale, because which others it will stand beside is not decided yet.
            errors = torch.maximum(errors, own / want.reshape(4 * batch, -1).abs().amax(1).clamp(min=1e-300))
    chosen = errors.argsort()[:batch]
    if not float(errors[chosen].max()) <= bound:
        return None
    return tuple(tensor[chosen] for tensor in pool)


def _refusal(
    difference: float, model: nn.Module, inputs: Sequence[Tensor], want: Any, runtime: str, limit: float
) -> str:
    """What a difference beyond the limit comes from, and what to do."""
    if not all(bool(tensor.isfinite().all()) for tensor in named_outputs(want).values()):
        return (
            f"the network itself gives NaN or infinite outputs at {_at(inputs)}, so {runtime} cannot be compared with "
            f"it; train it, or give an `example` of the inputs that it is made for."
        )
    own = own_rounding(model, inputs, want)
    if own is not None and own > limit / 4 and difference <= _SAME_CAUSE * own:
        return (
            f"the network is too sensitive to rounding to be verified: at {_at(inputs)} its own outputs differ by "
            f"{own:.1e} of the largest between float32 and float64, and {runtime} differs from it by {difference:.1e}, "
            f"more than {limit:.0e}; train it, or pass it some images in train mode, so that its normalisation layers "
            f"have statistics, and give real inputs as `example`."
        )
    cause = (
        f"rounding does not explain it, since the network's own outputs differ by {own:.1e} between float32 and float64"
        if own is not None
        else "whether rounding explains it cannot be told, since the network does not run in float64"
    )
    return (
        f"{runtime} differs from the network by {difference:.1e} of the largest output at {_at(inputs)}, more than "
        f"{limit:.0e}; {cause}. Nothing was written; try another format, or another version of the runtime or PyTorch."
    )
