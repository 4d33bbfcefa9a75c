"""What an export wrote and how close its runtime came to the network."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Check:
    """One run of the written file beside the network.

    Attributes:
        shapes: Shape of each input.
        difference: Largest over the outputs of ``max|runtime - network| / max|network|``.
        redrawn: Whether other inputs took the place of ones on which the network's own rounding errors are too large.
    """

    shapes: tuple[tuple[int, ...], ...]
    difference: float
    redrawn: bool = False

    @property
    def batch(self) -> int:
        """How many samples were run at once."""
        return self.shapes[0][0]


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """A written and verified export; ``print`` shows it.

    Attributes:
        format: Name of the format, with its version where it has one.
        runtime: What ran the file for the checks, with its version.
        path: The file to deploy; `files` are all that belong to it, `path` first.
        inputs: Name and shape of each input, a free axis by its name.
        outputs: Name of each output.
        free_axes: Which of ``batch``, ``height`` and ``width`` may change between runs.
        checks: Every run beside the network.
        limit: The largest difference that would have been accepted.
        notes: What else one should know, one sentence each, such as why the image size is fixed.
    """

    format: str
    runtime: str
    path: Path
    files: tuple[Path, ...]
    inputs: dict[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    free_axes: tuple[str, ...]
    checks: tuple[Check, ...]
    limit: float
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files together, as they lie on the disk now."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that were run, each once, in order."""
        return tuple(dict.fromkeys(check.batch for check in self.checks))

    @property
    def difference(self) -> float:
        """The largest difference of all checks."""
        return max((check.difference for check in self.checks), default=math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        values = asdict(self)
        values["path"] = str(self.path)
        values["files"] = [str(file) for file in self.files]
        return {**values, "size": self.size, "batches": self.batches, "difference": self.difference}

    def __str__(self) -> str:
        """A few lines: the files, what is free, each check, the notes."""
        shapes = ", ".join(f"{name} ({_axes(shape)})" for name, shape in self.inputs.items())
        lines = [
            f"{self.format}: {', '.join(str(file) for file in self.files)} ({self.size / 1e6:.1f} MB)",
            f"  inputs   {shapes}",
            f"  outputs  {', '.join(self.outputs)}",
            f"  free     {', '.join(self.free_axes) or 'nothing'}",
            f"  checked  in {self.runtime}, each difference at most {self.limit:.0e} of the largest output:",
        ]
        lines += [
            f"           {check.difference:.1e} at {_shapes(check.shapes)}{_redrawn(check)}" for check in self.checks
        ]
        return "\n".join(lines + [f"  note     {note}" for note in self.notes])


def _axes(shape: tuple[int | str, ...]) -> str:
    return ", ".join(str(axis) for axis in shape)


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join("x".join(str(axis) for axis in shape) for shape in shapes)


def _redrawn(check: Check) -> str:
    return " (inputs drawn again: the network's own rounding errors were too large)" if check.redrawn else ""
