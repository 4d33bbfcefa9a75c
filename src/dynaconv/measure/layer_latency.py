"""Latency of each layer of a network."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.example import eval_mode
from dynaconv.measure.modules import call_hooks
from dynaconv.measure.timing import conditions, synchronised_time, time_in_turns


@dataclass(frozen=True, kw_only=True)
class LayerLatency:
    """Results of `measure_layer_latency` with the measurement conditions.

    Attributes:
        total_ms: Median time of a forward pass without hooks.
        layers_ms: Median time in each layer, by name, summed over its calls in a pass.
        conditions: The measurement conditions in one line.
    """

    total_ms: float
    layers_ms: dict[str, float]
    conditions: str


def measure_layer_latency(
    model: nn.Module,
    x: Tensor,
    names: Mapping[nn.Module, str],
    *,
    rounds: int = 20,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> LayerLatency:
    """Measure the median time of a network and of each of its layers, in eval mode under inference mode.

    Each round times one pass as a whole and one pass layer by layer, with hooks on the layers; every second round runs
    them in reverse order. The total therefore excludes the cost of the hooks, and a temporary slowdown of the machine
    affects both passes.

    Args:
        model: The network.
        x: Input of the network.
        names: Layers and their names.
        rounds, warmup: Number of timed and untimed rounds.
        clock: Clock in seconds, replaceable for tests.

    Raises:
        ValueError: `rounds` is less than 1, or the network is on the meta device, which computes nothing.
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be at least 1; got {rounds}.")
    if x.is_meta:
        raise ValueError(
            "latency cannot be measured on the meta device, which computes nothing; use a network on another device."
        )
    layers: dict[str, list[float]] = {}

    def run_by_layer() -> None:
        with _timed_calls(names, partial(synchronised_time, x.device, clock)) as durations:
            model(x)
        for name, duration in durations.items():
            layers.setdefault(name, []).append(duration)

    passes: dict[str, Callable[[], object]] = {"whole": partial(model, x), "by layer": run_by_layer}
    with eval_mode(model), torch.inference_mode():
        seconds = time_in_turns(passes, rounds, warmup=warmup, clock=clock, device=x.device)
    return LayerLatency(
        total_ms=1e3 * statistics.median(seconds["whole"]),
        layers_ms={name: 1e3 * statistics.median(times[-rounds:]) for name, times in layers.items()},
        conditions=conditions(x.shape, x.device.type, torch.get_num_threads(), torch.__version__, rounds),
    )


@contextmanager
def _timed_calls(names: Mapping[nn.Module, str], clock: Callable[[], float]) -> Iterator[Mapping[str, float]]:
    """Yield the seconds of each layer's calls in the block, by name."""
    durations: defaultdict[str, float] = defaultdict(float)
    starts: list[float] = []

    def before(module: nn.Module, args: Any) -> None:
        starts.append(clock())

    def after(module: nn.Module, args: Any, output: Any) -> None:
        durations[names[module]] += clock() - starts.pop()

    with call_hooks(names, before, after):
        yield durations
