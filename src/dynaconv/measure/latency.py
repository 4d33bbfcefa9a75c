"""Comparable latencies of several networks, measured in interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from dynaconv.conversion.example import as_input_size, eval_mode
from dynaconv.families.contract.checks import check_module
from dynaconv.measure.timing import conditions, median_ratio, quartiles, time_in_turns

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class ModelLatency:
    """Times of one model, in milliseconds.

    Attributes:
        name: Key of the model in `models`.
        median_ms: Median over the rounds.
        spread_ms: Half the distance between the quartiles.
        ratio: Median over the rounds of this model's time divided by the first model's time in the same round.
    """

    name: str
    median_ms: float
    spread_ms: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Results of `measure_latency` with the measurement conditions."""

    models: tuple[ModelLatency, ...]
    input_size: tuple[int, ...]
    rounds: int
    threads: int
    device: str
    torch_version: str

    def __getitem__(self, name: str) -> ModelLatency:
        for entry in self.models:
            if entry.name == name:
                return entry
        raise KeyError(f"no latency for {name!r}; the measured models are {[entry.name for entry in self.models]}.")

    @property
    def conditions(self) -> str:
        """The measurement conditions in one line."""
        return conditions(self.input_size, self.device, self.threads, self.torch_version, self.rounds)

    def table(self) -> Table:
        """Return the medians as a rich table."""
        from rich.table import Table

        table = Table(title="Latency", caption=self.conditions)
        table.add_column("model")
        table.add_column("median ms", justify="right")
        table.add_column("± ms", justify="right")
        table.add_column(f"ratio to {self.models[0].name}", justify="right")
        for entry in self.models:
            table.add_row(entry.name, f"{entry.median_ms:.2f}", f"{entry.spread_ms:.2f}", f"{entry.ratio:.2f}")
        return table


def measure_latency(
    models: Mapping[str, nn.Module],
    input_size: Sequence[int],
    *,
    rounds: int = 30,
    warmup: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Measure the median forward time of each model in eval mode under inference mode.

    Each round runs every model once, and every second round runs in reverse order. A temporary slowdown of the machine
    therefore affects all models. The ratio compares times of the same round, which varies less than a ratio of medians.

    Args:
        models: Models by name, all on one device. The others are compared with the first.
        input_size: (C, H, W) for a batch of one, or (B, C, H, W).
        rounds: Number of timed passes of each model.
        warmup: Number of untimed passes of each model.
        clock: Clock in seconds, replaceable for tests.

    Raises:
        ValueError: `models` is empty, `rounds` or `warmup` is too small, or the size is invalid.
        TypeError: `models` is not a mapping to modules.
    """
    if not isinstance(models, Mapping):
        raise TypeError(f"`models` must be a mapping from names to models; got {type(models).__name__}.")
    for model in models.values():
        check_module(model)
    if not models:
        raise ValueError("`models` is empty; pass at least one model by name.")
    if rounds < 1 or warmup < 0:
        raise ValueError(f"`rounds` must be at least 1 and `warmup` at least 0; got {rounds} and {warmup}.")
    size = as_input_size(next(iter(models.values())), input_size)
    parameter = next(iter(next(iter(models.values())).parameters()), torch.zeros(()))
    device, dtype = parameter.device, parameter.dtype
    x = torch.rand(size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(eval_mode(model))
        stack.enter_context(torch.inference_mode())
        passes = {name: partial(model, x) for name, model in models.items()}
        seconds = time_in_turns(passes, rounds, warmup=warmup, clock=clock, device=device)
    first = next(iter(seconds.values()))
    return Latency(
        models=tuple(_summary(name, durations, first) for name, durations in seconds.items()),
        input_size=size,
        rounds=rounds,
        threads=torch.get_num_threads(),
        device=device.type,
        torch_version=torch.__version__,
    )


def _summary(name: str, seconds: list[float], first: list[float]) -> ModelLatency:
    low, median, high = (1e3 * value for value in quartiles(seconds))
    return ModelLatency(name=name, median_ms=median, spread_ms=(high - low) / 2, ratio=median_ratio(seconds, first))
