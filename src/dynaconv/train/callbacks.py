"""Lightning callbacks that write the metrics table and report progress."""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from dynaconv.files import write_csv

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


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """Progress of a run after a batch or an epoch.

    Attributes:
        kind: ``"batch"`` or ``"epoch"``.
        epoch, epochs: Number of this epoch, from 1, and total number of epochs (0 if unknown).
        batch, batches: Batches done in this epoch, and number of batches per epoch (0 if unknown).
        seconds: Seconds since the start of this epoch.
        metrics: After an epoch, its row of the metrics table; otherwise empty.
    """

    kind: Literal["batch", "epoch"]
    epoch: int
    epochs: int
    batch: int
    batches: int
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


class EpochTable(Callback):
    """Writes ``metrics.csv`` with one row per epoch. The whole file is rewritten, so that it is never truncated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._started = 0.0
        self._images = 0
        self._train_seconds = 0.0
        self._lr = 0.0
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._train_seconds, "images": self._images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train_seconds, self._images = state_dict["seconds"], state_dict["images"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The time of a resumed epoch includes the time before the interruption.
        self._started = time.perf_counter() - self._train_seconds

    def restore(self, epochs: int) -> None:
        """Read the rows of the first ``epochs`` epochs, which a resumed run continues."""
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                self.rows = [dict(row) for row in csv.DictReader(file) if int(row["epoch"]) <= epochs]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()
        self._train_seconds = 0.0
        self._images = 0
        self._validated = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # The scheduler steps before the hook at the end of the batch.
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
        # Lightning keeps the values of an earlier epoch if this one is not validated.
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


class ReportProgress(Checkpoint):
    """Calls a function with a `ProgressEvent` after every batch and epoch.

    It is a checkpoint callback because Lightning calls those last, in their order: an epoch is reported after its
    checkpoints are written.
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
