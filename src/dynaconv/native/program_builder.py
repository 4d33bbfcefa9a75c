"""Builds a program of steps: assigns slots to the images between them and joins all constants in one vector."""

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynaconv.deployment.backends import Precision
from dynaconv.native.bf16 import in_bf16
from dynaconv.native.int8 import in_int8
from dynaconv.native.steps import DENSE, DEPTHWISE, FIELDS, MAX_POOL, MEAN, Step, UnsupportedError
from dynaconv.ops.packing import round_up

_IN_PRECISION = {"bf16": in_bf16, "int8": in_int8}


@dataclass
class Builder:
    """Builder of a program. Values are numbered: 0 is the input, step i computes value i + 1."""

    steps: list[Step] = field(default_factory=list)
    flat: bool = False
    """Whether the output is ``(B, C)`` instead of images."""

    def add(self, step: Step, source: int, residual: int | None = None) -> int:
        """Append a step that reads value ``source`` and adds value ``residual`` before its activation.

        Returns:
            The number of the value that the step computes.

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

    def build(self, precision: Precision = "float32") -> tuple[Tensor, Tensor, list[int]]:
        """Return the constants, the steps as integers, and `Step.resize` of each step that changes the image size."""
        self._fuse()
        converted = _IN_PRECISION.get(precision)
        steps = self.steps if converted is None else [converted(step) for step in self.steps]
        constants = _Constants()
        table = []
        for step, slots in zip(steps, self._slots(), strict=True):
            values = {name: getattr(step, name) for name in FIELDS} | slots
            # Constants are stored in the order in which the kernels read them, so that they can be prefetched.
            for name in sorted(FIELDS, key=lambda name: name in ("weight", "bias")):
                if isinstance(values[name], Tensor):
                    # Layers may have the same cells.
                    values[name] = constants.append(values[name], shared=name == "cells")
            table += [_number(value) for value in values.values()]
        return constants.joined(), torch.tensor(table, dtype=torch.int64), self._sizes()

    def _fuse(self) -> None:
        """Mark each dense step whose result only the next step reads, if that is a static depthwise step."""
        readers = [value for step in self.steps for value in (step.source, step.residual)]
        for step, following in itertools.pairwise(self.steps):
            only_reader = following.source == step.target and readers.count(step.target) == 1
            # A dynamic depthwise step first needs the mean over its whole input.
            pair = step.kind == DENSE and following.kind == DEPTHWISE and not following.dynamic
            step.fused = int(pair and only_reader and step.residual < 0)

    def _slots(self) -> list[dict[str, int]]:
        """Assign slots to values by liveness: a slot is free after the last step that reads it. Slot 0 is the input."""
        last_use = {step.target: index for index, step in enumerate(self.steps)}
        for index, step in enumerate(self.steps):
            for value in (step.source, step.residual):
                # A fused step runs together with the next one.
                last_use[value] = index + step.fused
        slot_of = {0: 0, -1: -1}
        free: list[int] = []
        slots: list[dict[str, int]] = []
        count = 0
        for index, step in enumerate(self.steps):
            if not free:
                count += 1
                free.append(count)
            slot_of[step.target] = free.pop()
            slots.append({name: slot_of[getattr(step, name)] for name in ("source", "target", "residual")})
            dead = [value for value, last in last_use.items() if value > 0 and last == index and value != step.target]
            free += [slot_of[value] for value in dead]
        return slots

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
    """A float32 vector of constants, each of which starts on its own cache line of 64 bytes.

    A constant of another dtype is stored as its bits.
    """

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.shared: list[tuple[Tensor, int]] = []
        self.size = 0

    def append(self, vector: Tensor, *, shared: bool) -> int:
        """Append a constant, padded to a multiple of 64 bytes, and return its offset in floats.

        With ``shared``, an equal constant that is already there is used again.
        """
        vector = vector.detach()
        if vector.dtype == torch.float64:
            vector = vector.float()
        length = round_up(len(vector), 64 // vector.element_size())
        padded = torch.nn.functional.pad(vector, (0, length - len(vector))).view(torch.float32)
        for known, offset in self.shared if shared else ():
            # Compared as integers, since some bits are those of a NaN.
            if torch.equal(known.view(torch.int32), padded.view(torch.int32)):
                return offset
        offset = self.size
        if shared:
            self.shared.append((padded, offset))
        self.parts.append(padded)
        self.size += len(padded)
        return offset

    def joined(self) -> Tensor:
        return torch.cat(self.parts) if self.parts else torch.zeros(0)
