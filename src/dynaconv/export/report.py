"""Reports on exports: the files that were written, and how far their outputs are from the network's."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Check:
    """A comparison of the written file with the network on the same inputs.

    Attributes:
        shapes: Shape of each input.
        difference: ``max|runtime - network| / max|network|``, the largest over the outputs.
        redrawn: Whether the inputs were drawn again, because the network's own rounding errors on the first ones were
            too large.
    """

    shapes: tuple[tuple[int, ...], ...]
    difference: float
    redrawn: bool = False

    @property
    def batch(self) -> int:
        """Batch size of the inputs."""
        return self.shapes[0][0]


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """A written and verified export; ``print`` shows a summary.

    Attributes:
        format: Name of the format, with its version if it has one.
        runtime: The runtime that ran the file for the checks, with its version.
        path: The file to deploy.
        files: All files of the export, `path` first.
        inputs: Shape of each input, by the input's name; a free axis is given by its name.
        outputs: Name of each output.
        free_axes: Which of ``batch``, ``height`` and ``width`` may change between runs.
        checks: All comparisons with the network.
        limit: Largest accepted difference.
        notes: Further information, one sentence each, such as why the image size is fixed.
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
        """Current size of all files on the disk, in bytes."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes of the checks, without duplicates, in order."""
        return tuple(dict.fromkeys(check.batch for check in self.checks))

    @property
    def difference(self) -> float:
        """The largest difference of all checks; NaN without checks."""
        return max((check.difference for check in self.checks), default=math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that JSON can represent."""
        values = asdict(self)
        values["path"] = str(self.path)
        values["files"] = [str(file) for file in self.files]
        return {**values, "size": self.size, "batches": self.batches, "difference": self.difference}

    def __str__(self) -> str:
        """Return a summary in a few lines: files, inputs and outputs, free axes, checks and notes."""
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
