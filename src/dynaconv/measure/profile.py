"""Cost of a network, layer by layer: parameters, multiply-adds, activation memory, latency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.example import as_input_size, eval_mode
from dynaconv.families.contract.checks import check_module
from dynaconv.files import write_csv, write_json
from dynaconv.measure.layer_latency import LayerLatency, measure_layer_latency
from dynaconv.measure.memory import MemoryRecorder, saved_bytes
from dynaconv.measure.modules import example_input, leaf_layers, preserved_rng_state
from dynaconv.measure.multiply_adds import LayerWork, WorkRecorder, chosen_algorithm, published_macs

if TYPE_CHECKING:
    from rich.table import Table

# Errors of a model that does not accept the input.
_MODEL_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """Cost of one layer; a dynamic layer includes its branch.

    Attributes:
        name: Dotted path in the model; the empty string is the model itself.
        kind: Class name.
        params: Number of parameters, without those shared with an earlier layer.
        macs: Multiply-adds of one forward pass as executed, summed over the layer's calls.
        output_shape: Output shape of the last call, including the batch; None if the layer does not return one tensor.
        calls: Number of calls of the layer in one forward pass.
        published_macs: Multiply-adds by the convention of the papers; equal to `macs` for a static layer.
        algorithm: Algorithm of a dynamic layer at this size; None for a static layer.
        output_bytes: Size of the outputs, summed over the calls, also if an output shares the input's memory.
        peak_bytes: Peak of the live activation bytes while the layer ran minus those at its start.
        latency_ms: Median time in the layer; None if not measured.
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
    """Result of `profile`; docs/profile.md defines each number.

    Attributes:
        params: Number of parameters of the model; shared ones count once.
        macs: Multiply-adds of one forward pass at `input_size`, as executed.
        layers: The layers in the order of their first call; layers that the forward pass does not reach come last.
        input_size: (B, C, *sizes).
        published_macs: Multiply-adds by the convention of the papers on dynamic convolution.
        peak_bytes: Peak bytes of live operator outputs in one forward pass in inference.
        peak_layer: The layer that ran at the peak; None if the operator was outside any layer.
        saved_bytes: Bytes that one forward pass in train mode saves for the backward pass; None if the model does not
            run in train mode on this input.
        saved_refusal: The reason why `saved_bytes` is None.
        latency_ms: Median time of a forward pass; None if not measured.
        conditions: Measurement conditions of `latency_ms`.
    """

    params: int
    macs: int
    layers: tuple[LayerProfile, ...]
    input_size: tuple[int, ...]
    published_macs: int
    peak_bytes: int
    peak_layer: str | None
    saved_bytes: int | None
    saved_refusal: str | None
    latency_ms: float | None
    conditions: str | None

    def table(self, width: int | None = None) -> Table:
        """Return the layers as a rich table, with the totals in its footer.

        Args:
            width: Characters per line. Columns that do not fit are left out and named below the table; None keeps all.
        """
        from dynaconv.measure.profile_table import layer_table

        return layer_table(self, width)

    def __str__(self) -> str:
        """Return `table` as text, or `repr` where the package rich is missing."""
        try:
            from rich.console import Console
        except ModuleNotFoundError:
            return repr(self)
        console = Console(width=200, color_system=None)
        with console.capture() as capture:
            console.print(self.table())
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, exact, as plain values for JSON."""
        from dynaconv.measure.profile_export import profile_dict

        return profile_dict(self)

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` to a file."""
        write_json(Path(path), self.to_dict())

    def to_csv(self, path: str | Path) -> None:
        """Write one row per layer, one for work outside any layer if there is any, and the totals."""
        from dynaconv.measure.profile_export import COLUMNS, csv_rows

        write_csv(Path(path), COLUMNS, csv_rows(self))


def profile(
    model: nn.Module, input_size: Sequence[int], *, latency: bool = False, rounds: int | None = None
) -> Profile:
    """Measure parameters, multiply-adds and activation memory of one forward pass and, optionally, its latency.

    A multiply-add is half a flop of `torch.utils.flop_counter`: convolutions and matrix products count, element-wise
    work, normalisation and pooling do not. ``macs`` counts the executed operators: a dynamic layer counts with the
    algorithm that it runs at this size, including its branch. ``published_macs`` counts the static convolution, the
    branch and the assembly of the kernel, whichever algorithm the layer runs.

    The model runs in eval mode, and once in train mode to measure the tensors saved for the backward pass.

    Args:
        model: The network. Its modes, buffers, hooks and gradients and the random state do not change.
        input_size: (C, H, W) for a batch of one, or (B, C, H, W); other sizes if the network's first convolution is
            not over images.
        latency: Also measure the time of the model and of each layer, which takes 2 * `rounds` passes.
        rounds: Number of rounds of the latency measurement, by default 20.

    Raises:
        ValueError: The size does not have these positive integers, or the model does not accept it; `rounds` is less
            than 1 or given without `latency`; with `latency`, the model is on the meta device.
        TypeError: ``model`` is not a module.
    """
    check_module(model)
    if rounds is not None and not latency:
        raise ValueError("`rounds` belongs to the measurement of the latency; pass latency=True, or leave it out.")
    size = as_input_size(model, input_size)
    layers = leaf_layers(model)
    # The result must not depend on the grad mode or inference mode of the caller.
    with torch.inference_mode(False), preserved_rng_state():
        with _model_errors_as_value_error(model, size):
            x = example_input(model, size)
            work = _record_work(model, x, layers)
        memory = _record_memory(model, x, layers)
        saved, reason = _saved_bytes(model, x)
        latencies = (
            measure_layer_latency(model, x, layers, rounds=20 if rounds is None else rounds) if latency else None
        )
        with eval_mode(model):
            rows = tuple(_rows(layers, work.work, memory, latencies))
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
        saved_refusal=reason,
        latency_ms=latencies.total_ms if latencies else None,
        conditions=latencies.conditions if latencies else None,
    )


@contextmanager
def _model_errors_as_value_error(model: nn.Module, size: tuple[int, ...]) -> Iterator[None]:
    try:
        yield
    except _MODEL_ERRORS as error:
        raise ValueError(f"{type(model).__name__} does not accept an input of size {size}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _record_work(model: nn.Module, x: Tensor, layers: Mapping[nn.Module, str]) -> WorkRecorder:
    with eval_mode(model), torch.no_grad(), WorkRecorder(layers) as recorder:
        model(x)
    return recorder


def _record_memory(model: nn.Module, x: Tensor, layers: Mapping[nn.Module, str]) -> MemoryRecorder:
    excluded = [*model.parameters(), *model.buffers(), x]
    with eval_mode(model), torch.no_grad(), MemoryRecorder(layers, excluded) as recorder:
        model(x)
    return recorder


def _saved_bytes(model: nn.Module, x: Tensor) -> tuple[int | None, str | None]:
    try:
        return saved_bytes(model, x), None
    except _MODEL_ERRORS as error:
        return None, _cause(error)


def _rows(
    layers: Mapping[nn.Module, str],
    work: Mapping[str, LayerWork],
    memory: MemoryRecorder,
    latencies: LayerLatency | None,
) -> Iterator[LayerProfile]:
    modules = {name: module for module, name in layers.items()}
    seen: set[int] = set()
    for name in [*work, *(name for name in modules if name not in work)]:
        module, layer_work = modules[name], work.get(name, LayerWork())
        yield LayerProfile(
            name=name,
            kind=type(module).__name__,
            params=_new_parameters(module, seen),
            macs=layer_work.macs,
            output_shape=layer_work.output_shape,
            calls=layer_work.calls,
            published_macs=published_macs(module, layer_work),
            algorithm=chosen_algorithm(module, layer_work),
            output_bytes=layer_work.output_bytes,
            peak_bytes=memory.layer_peaks.get(name, 0),
            latency_ms=latencies.layers_ms.get(name, 0.0) if latencies else None,
        )


def _new_parameters(module: nn.Module, seen: set[int]) -> int:
    new = [p for p in module.parameters() if id(p) not in seen]
    seen.update(id(p) for p in new)
    return sum(p.numel() for p in new)
