"""Several steps put together: slots for the images between them, one vector for all constants."""

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynaconv.native.packing import round_up
from dynaconv.native.steps import DENSE, DEPTHWISE, FIELDS, MAX_POOL, MEAN, Step, UnsupportedError


@dataclass
class Builder:
    """Collects steps. Values are numbered: 0 is the input, step i makes value i + 1."""

    steps: list[Step] = field(default_factory=list)
    flat: bool = False
    """Whether the output is one of vectors, ``(B, C)``."""

    def add(self, step: Step, source: int, residual: int | None = None) -> int:
        """Let ``step`` read value ``source``, and add value ``residual`` before its activation; the value it makes.

        Raises:
            UnsupportedError: A pooling step would read the input.
        """
        residual = -1 if residual is None else residual
        if step.kind in (MAX_POOL, MEAN):
            if not source:
                raise UnsupportedError("a program does not start by pooling")
            channels = self.steps[source - 1].out_channels
            step = dataclasses.replace(step, in_channels=channels, out_channels=channels)
        self.steps.append(dataclasses.replace(step, source=source, target=len(self.steps) + 1, residual=residual))
        return len(self.steps)

    def build(self) -> tuple[Tensor, Tensor, list[int]]:
        """The constants, the steps as integers, and how the size of an image changes, four numbers a change."""
        self._fuse()
        constants = _Constants()
        table = []
        for step, slots in zip(self.steps, self._slots(), strict=True):
            values = {name: getattr(step, name) for name in FIELDS} | slots
            # In the order in which they are read, so that the kernels can fetch what comes next.
            for name in sorted(FIELDS, key=lambda name: name in ("weight", "bias")):
                if isinstance(values[name], Tensor):
                    values[name] = constants.place(values[name])
            table += [_number(value) for value in values.values()]
        return constants.joined(), torch.tensor(table, dtype=torch.int64), self._sizes()

    def _fuse(self) -> None:
        """Mark each dense step whose result only a static depthwise step behind it reads; the two then run as one."""
        readers = [value for step in self.steps for value in (step.source, step.residual)]
        for step, following in itertools.pairwise(self.steps):
            alone = following.source == step.target and readers.count(step.target) == 1
            # A dynamic one needs the mean of all it reads first.
            pair = step.kind == DENSE and following.kind == DEPTHWISE and not following.dynamic
            step.fused = int(pair and alone and step.residual < 0)

    def _slots(self) -> list[dict[str, int]]:
        """Slots in place of values: one is free again after the last step that reads it. Slot 0 is the input."""
        last_use = {step.target: index for index, step in enumerate(self.steps)}
        for index, step in enumerate(self.steps):
            for value in (step.source, step.residual):
                # A fused step runs together with the next one.
                last_use[value] = index + step.fused
        slot_of = {0: 0, -1: -1}
        free: list[int] = []
        found: list[dict[str, int]] = []
        count = 0
        for index, step in enumerate(self.steps):
            if not free:
                count += 1
                free.append(count)
            slot_of[step.target] = free.pop()
            found.append({name: slot_of[getattr(step, name)] for name in ("source", "target", "residual")})
            done = [value for value, last in last_use.items() if value > 0 and last == index and value != step.target]
            free += [slot_of[value] for value in done]
        return found

    def _sizes(self) -> list[int]:
        by_target = {step.target: step for step in self.steps}
        value, changes = len(self.steps), []
        while value:
            step = by_target[value]
            if step.resize != (-1, 1, -1, 1):
                changes.append(step.resize)
            value = step.source
        return [number for change in reversed(changes) for number in change]


def _number(value: Any) -> int:
    return -1 if value is None else value


class _Constants:
    """Vectors one after another, each on a cache line of its own."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.size = 0

    def place(self, vector: Tensor) -> int:
        offset, padded = self.size, round_up(len(vector))
        self.parts.append(torch.nn.functional.pad(vector.detach().float(), (0, padded - len(vector))))
        self.size += padded
        return offset

    def joined(self) -> Tensor:
        return torch.cat(self.parts) if self.parts else torch.zeros(0)
