"""Records the training loss of a run every few steps."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from dynaconv.files import write_csv

COLUMNS = ("step", "loss")


class LossTrace(Callback):
    """Writes ``trace.csv``: at every `every`-th step, the mean loss of the batches since the previous row.

    The file is written at the end of each epoch and when training fails. A resumed run keeps the rows up to the step of
    its checkpoint.

    Args:
        path: The file.
        every: Steps per row.
    """

    def __init__(self, path: Path, *, every: int = 5) -> None:
        self.path, self.every = path, every
        self.rows: list[dict[str, Any]] = []
        self._losses: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step and self.path.is_file():
            self.rows = [row for row in read_trace(self.path) if row["step"] <= trainer.global_step]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self._losses.append(loss.detach())
        step, last = trainer.global_step, self.rows[-1]["step"] if self.rows else 0
        # With gradient accumulation, a step has several batches.
        if step > last and step % self.every == 0:
            # Only here, because reading a loss waits for the device.
            mean = float(torch.stack(self._losses).mean())
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
