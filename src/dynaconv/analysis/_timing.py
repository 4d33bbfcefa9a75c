"""What measurements of time share: a clock that waits for the device, and the line that belongs beside a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from dynaconv.errors import counted


def now(device: torch.device, clock: Callable[[], float]) -> float:
    """The time once everything that was started on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


def take_turns(
    work: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round, every other round in reverse order.

    A machine that slows down for a while slows all of them down.
    """
    times: dict[str, list[float]] = {name: [] for name in work}
    order = list(work.items())
    for turn in range(rounds):
        for name, do in order if turn % 2 == 0 else reversed(order):
            start = clock()
            do()
            times[name].append(clock() - start)
    return times


def conditions(input_size: Sequence[int], device: str, threads: int, torch_version: str, rounds: int) -> str:
    """One line that belongs beside every number: what was run, where, and how often."""
    batch, *size = input_size
    count = counted(threads, "thread")
    shape = " x ".join(str(n) for n in size)
    return f"batch {batch}, {shape}, {device}, {count}, torch {torch_version}, median of {rounds} alternating rounds"
