"""Lightning callbacks: reproducible epochs, a tidy table, progress, a stop on divergence, whole checkpoints."""

import csv
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from dynaconv.errors import TrainingDivergedError
from dynaconv.train.files import replacing, write_csv

COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "val_acc5",
    "seconds",
    "images_per_second",
)
BEST, LAST = "best.ckpt", "last.ckpt"
# Reading the loss waits for the device, so off the CPU it is done once in this many batches.
_LOSS_CHECK_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """Where a run stands, after a batch or after an epoch.

    Attributes:
        kind: ``"batch"`` or ``"epoch"``.
        epoch, epochs: Number of this epoch, from 1, and how many there will be (0 when unknown).
        batch, batches: Batches done in this epoch, and how many it has (0 when unknown).
        seconds: Since the start of this epoch.
        metrics: After an epoch, its row of the metrics table; otherwise empty.
    """

    kind: Literal["batch", "epoch"]
    epoch: int
    epochs: int
    batch: int
    batches: int
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


class SeedEachEpoch(Callback):
    """Seeds every generator from the run's seed and the epoch, so that a resumed run repeats an uninterrupted one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        mixed = (self.seed * 1_000_003 + trainer.current_epoch * 8_191 + trainer.global_rank) % 2**32
        random.seed(mixed)
        np.random.seed(mixed)  # timm's mixup draws from the global generator
        torch.manual_seed(mixed)


class EpochTable(Callback):
    """Writes ``metrics.csv``: one row an epoch, rewritten whole so that it is never cut short."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._started = 0.0
        self._images = 0
        self._lr = 0.0
        self._validated = False

    def restore(self, epochs: int) -> None:
        """Take back the rows of a run's first ``epochs`` epochs, which a resumed run goes on from."""
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                self.rows = [dict(row) for row in csv.DictReader(file) if int(row["epoch"]) <= epochs]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()
        self._train_seconds = 0.0
        self._images = 0
        self._validated = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # The schedule moves on before the hook at the end of the step.
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch[1]) * trainer.world_size
        self._train_seconds = time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning calls the callbacks before the module, so the averages are read from the metrics themselves.
        computed = {
            "train_loss": float(pl_module.train_loss.compute()),  # type: ignore[operator, union-attr]
            "train_acc": float(pl_module.train_acc.compute()),  # type: ignore[operator, union-attr]
        }
        # Lightning keeps the values of an earlier epoch when this one is not validated.
        logged = trainer.callback_metrics if self._validated else {}
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": self._lr,
            **computed,
            **{name: float(logged[name]) for name in ("val_loss", "val_acc", "val_acc5") if name in logged},
            "seconds": time.perf_counter() - self._started,
            "images_per_second": self._images / max(self._train_seconds, 1e-9),
        }
        self.rows.append({key: _rounded(value) for key, value in row.items()})
        if trainer.is_global_zero:
            write_csv(self.path, COLUMNS, self.rows)


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


class StopOnDivergence(Callback):
    """Raises as soon as a loss is not finite, before that epoch can replace the last good checkpoint."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cpu" or batch_idx % _LOSS_CHECK_EVERY == 0:
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            self._check(trainer, "training", float(loss), f", batch {batch_idx + 1}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, "training", float(pl_module.train_loss.compute()))  # type: ignore[operator, union-attr]
        if "val_loss" in trainer.callback_metrics:
            self._check(trainer, "validation", float(trainer.callback_metrics["val_loss"]))

    @staticmethod
    def _check(trainer: Trainer, phase: str, loss: float, where: str = "") -> None:
        if math.isfinite(loss):
            return
        kept = trainer.current_epoch
        raise TrainingDivergedError(
            f"the {phase} loss became {loss} in epoch {trainer.current_epoch + 1}{where}; lower the learning rate, "
            f"lengthen the warm-up or clip gradients. "
            + (f"The checkpoint after epoch {kept} is kept." if kept else "No epoch was finished.")
        )


class ReportProgress(Checkpoint):
    """Calls a function with a `ProgressEvent` after every batch and epoch.

    It counts as a checkpoint callback because Lightning calls those last, in their order: an epoch is reported once
    its checkpoints are written.
    """

    def __init__(self, report: Callable[[ProgressEvent], None], table: EpochTable) -> None:
        self.report = report
        self.table = table
        self._started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._send(trainer, "batch", batch_idx + 1, {})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        row = {name: float(value) for name, value in self.table.rows[-1].items() if value != ""}
        self._send(trainer, "epoch", self._batches(trainer), row)

    @staticmethod
    def _batches(trainer: Trainer) -> int:
        batches = trainer.num_training_batches
        return int(batches) if math.isfinite(batches) else 0

    def _epochs(self, trainer: Trainer) -> int:
        if (trainer.max_epochs or -1) > 0:
            return int(trainer.max_epochs or 0)
        batches = self._batches(trainer)
        steps = math.ceil(batches / trainer.accumulate_grad_batches)
        return math.ceil(trainer.max_steps / steps) if steps and trainer.max_steps > 0 else 0

    def _send(self, trainer: Trainer, kind: Literal["batch", "epoch"], batch: int, metrics: dict[str, float]) -> None:
        if trainer.is_global_zero:
            self.report(
                ProgressEvent(
                    kind=kind,
                    epoch=trainer.current_epoch + 1,
                    epochs=self._epochs(trainer),
                    batch=batch,
                    batches=self._batches(trainer),
                    seconds=time.perf_counter() - self._started,
                    metrics=metrics,
                )
            )


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a killed run leaves the previous one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with replacing(Path(path)) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)


def checkpoint_callbacks(folder: Path, *, monitor: bool) -> list[Callback]:
    """Return the callbacks that keep the last checkpoint and, with validation images, the best."""
    common: dict[str, Any] = {
        "dirpath": folder,
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
    }
    callbacks: list[Callback] = []
    if monitor:
        callbacks.append(ModelCheckpoint(filename=Path(BEST).stem, monitor="val_acc", mode="max", **common))
    callbacks.append(ModelCheckpoint(filename=Path(LAST).stem, every_n_epochs=1, **common))
    return callbacks
