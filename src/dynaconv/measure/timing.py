"""The timing harness: candidates take turns in rounds, and ratios compare times of the same round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from dynaconv.errors import counted

if TYPE_CHECKING:
    import torch

Label = TypeVar("Label")


def synchronised_time(device: torch.device | None, clock: Callable[[], float]) -> float:
    """Return the time of `clock` after the device has finished all queued work; None is the CPU."""
    if device is not None and device.type == "cuda":
        # Benchmarks use this module in processes that run other runtimes and must not load torch.
        import torch

        torch.cuda.synchronize(device)
    return clock()


def alternating_rounds(
    labels: Sequence[Label], count: int, *, warmup: int = 0
) -> Iterator[tuple[int, Sequence[Label]]]:
    """Yield the number of each round and the order of its turns; every second round is in reverse order.

    A temporary slowdown of the machine therefore affects all candidates. Warm-up rounds come first and have negative
    numbers.
    """
    for index in range(-warmup, count):
        yield index, labels if index % 2 == 0 else labels[::-1]


def time_in_turns(
    functions: Mapping[Label, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    device: torch.device | None = None,
) -> dict[Label, list[float]]:
    """Return the seconds of each function in each of the alternating rounds.

    Args:
        functions: Candidates by label.
        rounds, warmup: Number of timed and untimed calls of each function.
        clock: Clock in seconds, such as `time.process_time`.
        device: Device that the functions queue work on; None for the CPU.
    """
    seconds: dict[Label, list[float]] = {label: [] for label in functions}
    for index, order in alternating_rounds(list(functions), rounds, warmup=warmup):
        for label in order:
            start = synchronised_time(device, clock)
            functions[label]()
            duration = synchronised_time(device, clock) - start
            if index >= 0:
                seconds[label].append(duration)
    return seconds


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile of at least one value."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return low, middle, high


def median_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """Return the median over the rounds of a candidate's time divided by another's in the same round.

    It varies less than the ratio of the medians.
    """
    return statistics.median(own / other for own, other in zip(times, base, strict=True))


def conditions(input_size: Sequence[int], device: str, threads: int, torch_version: str, rounds: int) -> str:
    """Return the measurement conditions in one line: input size, device, threads, torch version and rounds."""
    batch, *size = input_size
    count = counted(threads, "thread")
    shape = " x ".join(str(n) for n in size)
    return f"batch {batch}, {shape}, {device}, {count}, torch {torch_version}, median of {rounds} alternating rounds"
