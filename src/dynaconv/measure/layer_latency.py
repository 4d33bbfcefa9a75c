"""Latency of each layer of a network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.example import eval_mode
from dynaconv.measure.timing import conditions, synchronised_time


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
    timer = _LayerTimer(names, x.device, clock)
    totals: list[float] = []
    layers: dict[str, list[float]] = {}
    with eval_mode(model), torch.inference_mode():
        for index in range(-warmup, rounds):
            for hooked in (False, True) if index % 2 == 0 else (True, False):
                if hooked:
                    with timer:
                        model(x)
                    durations = timer.durations_ms
                else:
                    start = synchronised_time(x.device, clock)
                    model(x)
                    total = (synchronised_time(x.device, clock) - start) * 1e3
            if index >= 0:
                totals.append(total)
                for name, duration in durations.items():
                    layers.setdefault(name, []).append(duration)
    return LayerLatency(
        total_ms=statistics.median(totals),
        layers_ms={name: statistics.median(times) for name, times in layers.items()},
        conditions=conditions(x.shape, x.device.type, torch.get_num_threads(), torch.__version__, rounds),
    )


class _LayerTimer:
    """Context manager that times each call of the layers inside it; `durations_ms` is of the last use."""

    def __init__(self, names: Mapping[nn.Module, str], device: torch.device, clock: Callable[[], float]) -> None:
        self.durations_ms: dict[str, float] = {}
        self._names = names
        self._device = device
        self._clock = clock
        self._starts: list[float] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def _before(self, module: nn.Module, args: Any) -> None:
        self._starts.append(synchronised_time(self._device, self._clock))

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        duration = (synchronised_time(self._device, self._clock) - self._starts.pop()) * 1e3
        name = self._names[module]
        self.durations_ms[name] = self.durations_ms.get(name, 0.0) + duration

    def __enter__(self) -> None:
        self.durations_ms = {}
        for module in self._names:
            self._handles.append(module.register_forward_pre_hook(self._before))
            self._handles.append(module.register_forward_hook(self._after))

    def __exit__(self, *exc: Any) -> None:
        while self._handles:
            self._handles.pop().remove()
