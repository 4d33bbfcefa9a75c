"""When a run is saved, and how a checkpoint gets to the disk."""

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from dynaconv.errors import CheckpointError, RunError, TrainingDivergedError
from dynaconv.files import replacing
from dynaconv.train.callbacks import BEST
from dynaconv.train.stopping import RunStopped, StopSignals


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """How often a run is saved besides the end of every epoch.

    Attributes:
        every_steps: Updates of the weights between two checkpoints; by default the time alone decides.
        every_minutes: Minutes between two checkpoints; null for none.
    """

    every_steps: int | None = None
    every_minutes: float | None = 10.0

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise RunError(f"checkpoint.every_steps is at least 1; got {self.every_steps}.")
        if self.every_minutes is not None and not self.every_minutes > 0:
            raise RunError(f"checkpoint.every_minutes is positive; got {self.every_minutes}.")


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that whatever happens a whole one is there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        # In memory first: torch's own writer does not survive a full disk.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        except OSError as error:
            kept = "the one before it is kept" if path.is_file() else "there is none before it"
            raise CheckpointError(
                f"cannot write the checkpoint {path}: {error.strerror or error}; {kept}. Mend that, then "
                f"`dynaconv train --resume {path.parent.parent}`."
            ) from error


class SaveLast(Checkpoint):
    """Saves a run at the end of every epoch, inside epochs as often as asked for, and when it is told to stop.

    Lightning calls it after the other callbacks, so that what they do at the end of a step is saved too.

    Args:
        path: The file, rewritten each time.
        options: How often.
        stop: The signals that ask the run to stop.
        inside_epochs: Whether a resumed run can start inside an epoch: its images are no stream.

    Attributes:
        kept: A sentence on which checkpoint is there.
    """

    def __init__(self, path: Path, options: CheckpointOptions, stop: StopSignals, *, inside_epochs: bool) -> None:
        self.path = path
        self.options = options
        self.stop = stop
        self.inside_epochs = inside_epochs
        self.kept = "Nothing was saved yet."
        self._saved_step = 0
        self._saved_at = 0.0

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has installed its own handlers since.
        self.stop.install()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop.install()
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        if trainer.global_step:
            self.kept = f"The checkpoint of step {trainer.global_step} is kept."

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        # A clock and a signal may differ between processes.
        asked = self._anyone(trainer, self.stop.received is not None or self._time_is_up())
        stopping = asked and self._anyone(trainer, self.stop.received is not None)
        if stopping and not self.inside_epochs:
            raise self._stopped(trainer, kept=self.kept)
        due = trainer.global_step - self._saved_step >= (self.options.every_steps or float("inf"))
        if (asked or due) and self._can_resume_after(trainer, batch_idx):
            self._save(trainer, pl_module)
            self.kept = f"The checkpoint of step {trainer.global_step}, in epoch {trainer.current_epoch + 1}, is kept."
            if stopping:
                raise self._stopped(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, pl_module)
        self.kept = f"The checkpoint after epoch {trainer.current_epoch + 1} is kept."
        if self._anyone(trainer, self.stop.received is not None):
            raise self._stopped(trainer)

    def _stopped(self, trainer: Trainer, *, kept: str = "") -> RunStopped:
        # Another process of the run may be the one that got the signal.
        return RunStopped(
            self.stop.received or "SIGTERM", trainer.global_step, kept=kept, directory=self.path.parents[1]
        )

    def _time_is_up(self) -> bool:
        minutes = self.options.every_minutes
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    @staticmethod
    def _anyone(trainer: Trainer, mine: bool) -> bool:
        """Whether ``mine`` holds in any process of the run."""
        return mine if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(mine, all=False)

    def _can_resume_after(self, trainer: Trainer, batch_idx: int) -> bool:
        """Whether the run can go on from here alone.

        After the last batch come validation and the table's row, which need the epoch's sums; its end is saved anyway.
        The same holds once an epoch was validated before its end, as with ``trainer.val_check_interval``.
        """
        done = batch_idx + 1
        last = done >= trainer.num_training_batches or 0 < trainer.max_steps <= trainer.global_step
        if not self.inside_epochs or last or trainer.should_stop:
            return False
        if not trainer.limit_val_batches:
            return True
        every: Any = trainer.val_check_batch
        return trainer.check_val_every_n_epoch is not None and every is not None and done < every

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Of divided parameters each process has a share.
        shares = [getattr(parameter, "to_local", parameter.detach)() for parameter in pl_module.parameters()]
        if self._anyone(trainer, not bool(torch.stack([share.isfinite().all() for share in shares]).all())):
            raise TrainingDivergedError(
                f"weights are not finite after step {trainer.global_step}, so they are not saved; lower the learning "
                f"rate, lengthen the warm-up or clip gradients. {self.kept}"
            )
        trainer.save_checkpoint(self.path)
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()


def best_checkpoint(folder: Path) -> Callback:
    """Return the callback that keeps the epoch of the best validation accuracy."""
    return ModelCheckpoint(
        dirpath=folder,
        filename=Path(BEST).stem,
        monitor="val_acc",
        mode="max",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
