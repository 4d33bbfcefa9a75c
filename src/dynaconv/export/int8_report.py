"""Reports on int8 exports: the files, their sizes, and the loss of accuracy."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Branch = Literal["float", "int8"]


@dataclass(frozen=True, kw_only=True)
class Int8Report:
    """A written int8 network, compared with the float network that it was made from; ``print`` shows a summary.

    Attributes:
        runtime: The runtime of both networks, with its version.
        tool: The quantisation tool, with its version.
        path: The file to deploy.
        files: All files of the int8 network, `path` first.
        before, after: Accuracy of the float and of the int8 network, in per cent; None if it was not measured.
        evaluated: Number of evaluated images.
        agreement: Percentage of the evaluated images to which both networks assign the same class; None if it was not
            measured.
        error: ``|int8 - float| / |float|``, Euclidean over the calibration images, the largest over the outputs.
        float_ms, int8_ms: Time of one image, or of one batch if the batch size is fixed, in the float and in the int8
            network on this machine, in milliseconds: the median of calls in turns.
        float_bytes, int8_bytes: Size of all files of the float and of the int8 network.
        quantized: Number of convolutions and matrix products that compute in int8.
        products: Number of all convolutions and matrix products.
        kept_float: Number of operations of any kind that were excluded from quantisation: those in dynamic branches and
            those that match ``ignored``.
        calibrated: Number of calibration images.
        branch: ``"float"`` if dynamic branches stayed in float32, ``"int8"`` if they were quantised.
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
    float_ms: float
    int8_ms: float
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
        """Loss of accuracy in percentage points, negative if int8 is better; None if it was not measured."""
        return None if self.before is None or self.after is None else self.before - self.after

    @property
    def slower(self) -> bool:
        """Whether int8 takes longer than float32 on this machine."""
        return self.int8_ms > self.float_ms

    @property
    def conditions(self) -> str:
        """The conditions of the measurement in one line, to show next to every number."""
        measured = f"{self.evaluated:,} images evaluated" if self.evaluated else "accuracy not measured"
        return (
            f"{self.runtime}, quantised by {self.tool}, {self.calibrated} calibration images, "
            f"dynamic branches in {'float32' if self.branch == 'float' else 'int8'}, {measured}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that JSON can represent."""
        values = asdict(self)
        values["path"] = str(self.path)
        values["files"] = [str(file) for file in self.files]
        return {**values, "drop": self.drop, "slower": self.slower, "conditions": self.conditions}

    def __str__(self) -> str:
        """Return a summary in a few lines: files, sizes, int8 operations, error and accuracy."""
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
        verdict = "int8 is slower on this machine" if self.slower else f"{self.int8_ms / self.float_ms:.2f} of float32"
        lines.append(f"  time      {self.float_ms:.2f} ms -> {self.int8_ms:.2f} ms ({verdict})")
        free = "free" if self.free_batch else f"fixed to {self.batches[0]}"
        return "\n".join([*lines, f"  batch     {free}", f"  {self.conditions}"])
