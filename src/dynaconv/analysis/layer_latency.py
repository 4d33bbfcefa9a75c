"""Time that each layer of a network takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.analysis._timing import conditions, now
from dynaconv.analysis._units import eval_mode


@dataclass(frozen=True, kw_only=True)
class LayerLatency:
    """What `measure_layer_latency` found, and under what conditions.

    Attributes:
        total_ms: Median over the rounds of a forward pass without hooks.
        layers_ms: By name, the median over the rounds of the time in the layer, summed over its calls in a pass.
        conditions: One line that belongs beside every number.
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
    """Median time of a network and of each of its layers, in eval mode under inference mode.

    Every round times one pass as a whole and, with hooks on the layers, one pass layer by layer, every other round in
    reverse order. So the hooks cost the total nothing, and a machine that slows down for a while slows both down.

    Args:
        model: The network.
        x: Its input.
        names: Layers and their names.
        rounds, warmup: Timed and untimed rounds.
        clock: Seconds; for tests.

    Raises:
        ValueError: Fewer than one round, or a network on the meta device, where nothing is computed.
    """
    if rounds < 1:
        raise ValueError(f"`rounds` is at least 1; got {rounds}.")
    if x.is_meta:
        raise ValueError("latency needs a network with values; this one is on the meta device, where nothing is run.")
    timer = _LayerTimer(names, x.device, clock)
    totals: list[float] = []
    layers: dict[str, list[float]] = {}
    with eval_mode(model), torch.inference_mode():
        for turn in range(-warmup, rounds):
            for hooked in (False, True) if turn % 2 == 0 else (True, False):
                if hooked:
                    with timer:
                        model(x)
                    taken = timer.taken_ms
                else:
                    start = now(x.device, clock)
                    model(x)
                    total = (now(x.device, clock) - start) * 1e3
            if turn >= 0:
                totals.append(total)
                for name, one in taken.items():
                    layers.setdefault(name, []).append(one)
    return LayerLatency(
        total_ms=statistics.median(totals),
        layers_ms={name: statistics.median(one) for name, one in layers.items()},
        conditions=conditions(x.shape, x.device.type, torch.get_num_threads(), torch.__version__, rounds),
    )


class _LayerTimer:
    """A context that times each call of the layers in it; `taken_ms` is of the last time it was entered."""

    def __init__(self, names: Mapping[nn.Module, str], device: torch.device, clock: Callable[[], float]) -> None:
        self.taken_ms: dict[str, float] = {}
        self._names = names
        self._device = device
        self._clock = clock
        self._starts: list[float] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def _before(self, module: nn.Module, args: Any) -> None:
        self._starts.append(now(self._device, self._clock))

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        taken = (now(self._device, self._clock) - self._starts.pop()) * 1e3
        name = self._names[module]
        self.taken_ms[name] = self.taken_ms.get(name, 0.0) + taken

    def __enter__(self) -> None:
        self.taken_ms = {}
        for module in self._names:
            self._handles.append(module.register_forward_pre_hook(self._before))
            self._handles.append(module.register_forward_hook(self._after))

    def __exit__(self, *exc: Any) -> None:
        while self._handles:
            self._handles.pop().remove()
