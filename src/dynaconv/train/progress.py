"""Prints the progress of a run: one line per epoch, and on a terminal a bar with the time left."""

import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dynaconv.console import make_console
from dynaconv.errors import counted
from dynaconv.train.callbacks import EpochTable

# Seconds between two updates of the bar, and without a terminal between two lines inside an epoch. An update reads the
# loss, which synchronises with the device.
_REFRESH, _SILENCE = 0.2, 60.0


class RunProgress(Checkpoint):
    """Prints the start of a run and each epoch; on a terminal a bar shows the loss and the time left of the run.

    It is a checkpoint callback because Lightning calls those last, in their order: an epoch is printed after its
    checkpoints are written. Lightning's own bars show the time left of an epoch only, and need a terminal.

    Args:
        console: By default standard output.
        title: Text before each line.
    """

    def __init__(self, console: Console | None = None, *, title: str = "") -> None:
        self.console = console or make_console(soft_wrap=True)
        self.title = title
        self._bar: Progress | None = None
        self._last_shown = time.monotonic()

    def start(self, directory: Path, facts: dict[str, Any]) -> None:
        """Print the model, the numbers of images and threads, the run folder and the notes."""
        images = ", ".join(
            f"{facts[f'{split}_images']:,} {word}"
            for split, word in (("train", "training"), ("val", "validation"), ("test", "test"))
            if facts[f"{split}_images"]
        )
        threads = counted(facts["threads"], "thread") + (" per process" if facts["processes"] > 1 else "")
        self.console.print(
            f"{facts['model']}: {facts['params']:,} parameters; {images} images; {threads}; run folder {directory}"
        )
        for note in facts.get("notes", ()):
            self.console.print(note)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            # A long period, because the speed includes the validations.
            self._bar = Progress(*columns, console=self.console, transient=True, speed_estimate_period=600)
            self._bar.add_task(
                self._epoch(trainer), total=trainer.estimated_stepping_batches, completed=trainer.global_step
            )
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        waited = time.monotonic() - self._last_shown
        if not trainer.is_global_zero or waited < (_REFRESH if self._bar else _SILENCE):
            return
        self._last_shown = time.monotonic()
        batches = trainer.num_training_batches
        lr, loss = trainer.optimizers[0].param_groups[0]["lr"], outputs["loss"] * trainer.accumulate_grad_batches
        text = f"{self._epoch(trainer)}  batch {batch_idx + 1}/{batches if math.isfinite(batches) else '?'}"
        text += f"  lr {lr:.2g}  loss {loss:.4f}"
        if self._bar is None:
            self.console.print(text, soft_wrap=True)
        else:
            text += f"  {self._bar.tasks[0].speed or 0:.1f} steps/s"
            self._bar.update(self._bar.task_ids[0], description=text, completed=trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        table = next(callback for callback in trainer.callbacks if isinstance(callback, EpochTable))  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            self._last_shown = time.monotonic()
            self.console.print(f"{self._epoch(trainer)}  {_describe(table.rows[-1])}", soft_wrap=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_bar()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_bar()

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _epoch(self, trainer: Trainer) -> str:
        """Return the title, and the number of this epoch and of all, where known."""
        epochs, batches = trainer.max_epochs or -1, trainer.num_training_batches
        if epochs == -1 and math.isfinite(batches):
            epochs = math.ceil(trainer.max_steps / math.ceil(batches / trainer.accumulate_grad_batches))
        return f"{self.title}epoch {trainer.current_epoch + 1}/{epochs if epochs != -1 else '?'}"


def _describe(row: dict[str, Any]) -> str:
    parts = [f"lr {row['lr']:.2g}", f"loss {row['train_loss']:.4f}", f"acc {row['train_acc']:.2%}"]
    if "val_loss" in row:
        parts.append(f"val loss {row['val_loss']:.4f}  val acc {row['val_acc']:.2%}")
    parts.append(f"{row['seconds']:.1f} s  {row['images_per_second']:.0f} images/s")
    return "  ".join(parts)
