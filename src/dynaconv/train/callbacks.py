"""Lightning callbacks that write the metrics table and validate the end of a run."""

import csv
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

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


class ValidateLastEpoch(Callback):
    """Validates the last epoch even if ``check_val_every_n_epoch`` skips it, so that its weights can be the best."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate after every epoch from the last one on."""
        if trainer.check_val_every_n_epoch is not None and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


class EpochTable(Callback):
    """Writes ``metrics.csv`` with one row per epoch. The whole file is rewritten, so that it is never truncated.

    Lightning's `CSVLogger` writes two rows per epoch, and a resumed run deletes those of before.
    """

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

    def newest_is_best(self) -> bool:
        """Return whether the last epoch has the best validation accuracy; among equal ones, the lowest loss decides.

        If the losses are equal too, the later epoch is the best.
        """
        ranks = [(float(row["val_acc"]), -float(row["val_loss"])) for row in self.rows if row.get("val_acc", "") != ""]
        return self._validated and ranks[-1] == max(ranks)

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
