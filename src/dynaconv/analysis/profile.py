"""What a network costs, layer by layer: parameters, multiply-adds, activation memory, latency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dynaconv.analysis._units import checked_size, eval_mode, example_input, kept_random_state, layers_of
from dynaconv.analysis.layer_latency import LayerLatency, measure_layer_latency
from dynaconv.analysis.memory import MemoryRecorder, saved_bytes
from dynaconv.analysis.multiply_adds import LayerWork, WorkRecorder, chosen_algorithm, published_macs

if TYPE_CHECKING:
    from rich.table import Table

# What a model raises that does not take the input.
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """One layer; a dynamic layer counts as one, with its branch.

    Attributes:
        name: Dotted path in the model; the empty string is the model itself.
        kind: Class name.
        params: Number of parameters. Those shared with an earlier layer count there, and not again here.
        macs: Multiply-adds of one forward pass as executed, summed over the calls when the layer is used repeatedly.
        output_shape: Of the last call, batch included; None when the layer does not return one tensor.
        calls: How often the forward pass used the layer.
        published_macs: Multiply-adds by the convention of the papers; equal to `macs` for a static layer.
        algorithm: How a dynamic layer was run at this size; None for a static layer.
        output_bytes: Size of what the layer returned, summed over the calls, also where it lies in the input's memory.
        peak_bytes: The most that was held at once while the layer ran beyond what was held when it started.
        latency_ms: Median time in the layer; None when it was not measured.
    """

    name: str
    kind: str
    params: int
    macs: int
    output_shape: tuple[int, ...] | None
    calls: int
    published_macs: int
    algorithm: str | None
    output_bytes: int
    peak_bytes: int
    latency_ms: float | None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What `profile` found; docs/profile.md says what each number counts.

    Attributes:
        params: Number of parameters of the whole model, shared ones once.
        macs: Multiply-adds of one forward pass at `input_size`, as executed.
        layers: In the order of the first call, layers the forward pass does not reach last.
        input_size: (B, C, H, W).
        published_macs: Multiply-adds by the convention of the papers on dynamic convolution.
        peak_bytes: The most bytes of operators' outputs that one forward pass in inference holds at once.
        peak_layer: The layer that ran then; None for an operator outside any layer.
        saved_bytes: Bytes that one forward pass in train mode keeps for the backward pass; None when the model does
            not run in train mode on this input.
        saved_refusal: Why `saved_bytes` is None.
        latency_ms: Median time of a forward pass; None when it was not measured.
        conditions: Of the measurement of `latency_ms`.
    """

    params: int
    macs: int
    layers: tuple[LayerProfile, ...]
    input_size: tuple[int, int, int, int]
    published_macs: int
    peak_bytes: int
    peak_layer: str | None
    saved_bytes: int | None
    saved_refusal: str | None
    latency_ms: float | None
    conditions: str | None

    def table(self, width: int | None = None) -> Table:
        """The layers as a rich table, with the totals in its footer.

        Args:
            width: Characters a line; columns that do not fit are left out and named below the table. None keeps all.
        """
        from dynaconv.analysis.profile_table import layer_table

        return layer_table(self, width)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, exact, as JSON can hold them."""
        from dynaconv.analysis.profile_export import profile_dict

        return profile_dict(self)

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` to a file."""
        from dynaconv.analysis.profile_export import write_json

        write_json(self, Path(path))

    def to_csv(self, path: str | Path) -> None:
        """Write a row a layer, one for work outside any layer where there is such work, and the totals."""
        from dynaconv.analysis.profile_export import write_csv

        write_csv(self, Path(path))


def profile(model: nn.Module, input_size: Sequence[int], *, latency: bool = False, rounds: int = 20) -> Profile:
    """Parameters, multiply-adds and activation memory of one forward pass, and its latency where asked for.

    A multiply-add is half a flop of `torch.utils.flop_counter`: convolutions and matrix products count, element-wise
    work, normalisation and pooling do not. ``macs`` counts what is executed, so a dynamic layer counts with the
    algorithm it runs at this size, its branch included. ``published_macs`` counts the static convolution, the branch
    and the assembly of the kernel, whichever way the layer is run.

    The model runs in eval mode, and once in train mode for what training keeps for the backward pass.

    Args:
        model: Left as it was: modes, buffers, hooks, gradients and random state.
        input_size: (C, H, W) for a batch of one, or (B, C, H, W).
        latency: Also measure the time of the model and of each layer, which takes 2 * `rounds` passes.
        rounds: Rounds of that measurement.

    Raises:
        ValueError: The size is not three or four positive integers, or the model does not accept it; `rounds` is less
            than 1, or latency is asked for of a model on the meta device.
    """
    size = checked_size(input_size)
    layers = layers_of(model)
    # Nothing here may depend on the grad mode of the caller.
    with torch.inference_mode(False), kept_random_state():
        with _refused_as_value_error(model, size):
            x = example_input(model, size)
            work = _count(model, x, layers)
        memory = _follow_memory(model, x, layers)
        saved, refusal = _saved(model, x)
        timed = measure_layer_latency(model, x, layers, rounds=rounds) if latency else None
        with eval_mode(model):
            rows = tuple(_rows(layers, work.work, memory, timed))
    outside = work.macs - sum(layer.macs for layer in rows)
    return Profile(
        params=sum(p.numel() for p in model.parameters()),
        macs=work.macs,
        layers=rows,
        input_size=size,
        published_macs=outside + sum(layer.published_macs for layer in rows),
        peak_bytes=memory.peak_bytes,
        peak_layer=memory.peak_layer,
        saved_bytes=saved,
        saved_refusal=refusal,
        latency_ms=timed.total_ms if timed else None,
        conditions=timed.conditions if timed else None,
    )


@contextmanager
def _refused_as_value_error(model: nn.Module, size: tuple[int, ...]) -> Iterator[None]:
    try:
        yield
    except _REFUSALS as error:
        raise ValueError(f"{type(model).__name__} does not accept an input of size {size}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _count(model: nn.Module, x: Tensor, layers: Mapping[nn.Module, str]) -> WorkRecorder:
    with eval_mode(model), torch.no_grad(), WorkRecorder(layers) as recorder:
        model(x)
    return recorder


def _follow_memory(model: nn.Module, x: Tensor, layers: Mapping[nn.Module, str]) -> MemoryRecorder:
    known = [*model.parameters(), *model.buffers(), x]
    with eval_mode(model), torch.no_grad(), MemoryRecorder(layers, known) as recorder:
        model(x)
    return recorder


def _saved(model: nn.Module, x: Tensor) -> tuple[int | None, str | None]:
    try:
        return saved_bytes(model, x), None
    except _REFUSALS as error:
        return None, _cause(error)


def _rows(
    layers: Mapping[nn.Module, str], work: Mapping[str, LayerWork], memory: MemoryRecorder, timed: LayerLatency | None
) -> Iterator[LayerProfile]:
    modules = {name: module for module, name in layers.items()}
    seen: set[int] = set()
    for name in [*work, *(name for name in modules if name not in work)]:
        module, done = modules[name], work.get(name, LayerWork())
        yield LayerProfile(
            name=name,
            kind=type(module).__name__,
            params=_new_parameters(module, seen),
            macs=done.macs,
            output_shape=done.output_shape,
            calls=done.calls,
            published_macs=published_macs(module, done),
            algorithm=chosen_algorithm(module, done),
            output_bytes=done.output_bytes,
            peak_bytes=memory.layer_peaks.get(name, 0),
            latency_ms=timed.layers_ms.get(name, 0.0) if timed else None,
        )


def _new_parameters(module: nn.Module, seen: set[int]) -> int:
    fresh = [p for p in module.parameters() if id(p) not in seen]
    seen.update(id(p) for p in fresh)
    return sum(p.numel() for p in fresh)
