"""Helpers for latency measurements: a synchronised clock, interleaved timing, and the measurement conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from dynaconv.errors import counted


def synchronised_time(device: torch.device, clock: Callable[[], float]) -> float:
    """Return the time of `clock` after the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


def time_interleaved(
    functions: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of each function in each round.

    Each round calls every function once, and every second round runs in reverse order. A temporary slowdown of the
    machine therefore affects all functions.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions.items())
    for index in range(rounds):
        for name, function in order if index % 2 == 0 else reversed(order):
            start = clock()
            function()
            times[name].append(clock() - start)
    return times


def conditions(input_size: Sequence[int], device: str, threads: int, torch_version: str, rounds: int) -> str:
    """Return the measurement conditions in one line: input size, device, threads, torch version and rounds."""
    batch, *size = input_size
    count = counted(threads, "thread")
    shape = " x ".join(str(n) for n in size)
    return f"batch {batch}, {shape}, {device}, {count}, torch {torch_version}, median of {rounds} alternating rounds"
