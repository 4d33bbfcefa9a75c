"""What a quantisation wrote, and what it cost in accuracy."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Branch = Literal["float", "int8"]


@dataclass(frozen=True, kw_only=True)
class Int8Report:
    """A written int8 network beside the float one it was made from; ``print`` shows it.

    Attributes:
        runtime: What ran both, with its version.
        tool: What quantised, with its version.
        path: The file to deploy; `files` are all that belong to it, `path` first.
        before, after: Accuracy in per cent of the float and of the int8 network; None where none was measured.
        evaluated: How many images that was measured on.
        agreement: Per cent of those images that both put into the same class.
        error: ``|int8 - float| / |float|``, Euclidean over the calibration images, the largest of the outputs.
        float_bytes, int8_bytes: Size of all files before and after.
        quantized: How many convolutions and matrix products compute in int8.
        products: How many there are.
        kept_float: How many operations of any sort were kept out: dynamic branches and those ignored by name.
        calibrated: How many images the ranges were taken from.
        branch: Whether dynamic branches stayed in float32.
        free_batch: Whether the batch size may change between runs.
        batches: The batch sizes that were run.
    """

    runtime: str
    tool: str
    path: Path
    files: tuple[Path, ...]
    before: float | None
    after: float | None
    evaluated: int
    agreement: float | None
    error: float
    float_bytes: int
    int8_bytes: int
    quantized: int
    products: int
    kept_float: int
    calibrated: int
    branch: Branch
    free_batch: bool
    batches: tuple[int, ...]

    @property
    def drop(self) -> float | None:
        """Points of accuracy lost; negative when int8 is better."""
        return None if self.before is None or self.after is None else self.before - self.after

    @property
    def conditions(self) -> str:
        """One line that belongs beside every number."""
        measured = f"{self.evaluated:,} images evaluated" if self.evaluated else "accuracy not measured"
        return (
            f"{self.runtime}, quantised by {self.tool}, {self.calibrated} calibration images, "
            f"dynamic branches in {'float32' if self.branch == 'float' else 'int8'}, {measured}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        values = asdict(self)
        values["path"] = str(self.path)
        values["files"] = [str(file) for file in self.files]
        return {**values, "drop": self.drop, "conditions": self.conditions}

    def __str__(self) -> str:
        """A few lines: the files, sizes, accuracy, what is int8."""
        lines = [
            f"int8: {', '.join(str(file) for file in self.files)}",
            f"  size      {self.float_bytes / 1e6:.2f} MB -> {self.int8_bytes / 1e6:.2f} MB",
            f"  int8      {self.quantized} of {self.products} convolutions and matrix products; "
            f"{self.kept_float} operations kept in float32",
            f"  error     {self.error:.2%} of the outputs on the calibration images",
        ]
        if self.before is not None and self.after is not None:
            lines.append(
                f"  accuracy  {self.before:.2f} % -> {self.after:.2f} % ({self.after - self.before:+.2f} points), "
                f"{self.agreement:.2f} % of the images in the same class"
            )
        free = "free" if self.free_batch else f"fixed to {self.batches[0]}"
        return "\n".join([*lines, f"  batch     {free}", f"  {self.conditions}"])
