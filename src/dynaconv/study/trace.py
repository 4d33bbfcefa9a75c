"""Records the training loss of a run every few steps."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from dynaconv.files import write_csv

COLUMNS = ("step", "loss")


class LossTrace(Callback):
    """Writes ``trace.csv``: at every `every`-th step, the mean loss of the batches since the previous row.

    The file is written at the end of each epoch and when training fails. A checkpoint holds the rows up to its step and
    the losses of a row that is not complete, so that a resumed run has the same rows as an uninterrupted one.

    Args:
        path: The file.
        every: Steps per row.
    """

    def __init__(self, path: Path, *, every: int = 5) -> None:
        self.path, self.every = path, every
        self.rows: list[dict[str, Any]] = []
        self._losses: list[Tensor | float] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "losses": [float(loss) for loss in self._losses]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self._losses = list(state_dict["rows"]), list(state_dict["losses"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self._losses.append(loss.detach())
        step, last = trainer.global_step, self.rows[-1]["step"] if self.rows else 0
        # With gradient accumulation, a step has several batches.
        if step > last and step % self.every == 0:
            # Only here, because reading a loss waits for the device.
            mean = sum(map(float, self._losses)) / len(self._losses)
            self.rows.append({"step": step, "loss": float(f"{mean:.6g}")})
            self._losses = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.path.parent.is_dir() and self.rows:
            self._write()

    def _write(self) -> None:
        write_csv(self.path, COLUMNS, self.rows)


def read_trace(path: Path) -> Sequence[dict[str, Any]]:
    """Return the rows of a ``trace.csv``."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{"step": int(row["step"]), "loss": float(row["loss"])} for row in csv.DictReader(file)]
