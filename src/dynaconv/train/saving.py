"""Decides when a run is saved, and writes its checkpoints to disk."""

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from dynaconv.errors import CheckpointError, RunError, TrainingDivergedError
from dynaconv.files import replacing
from dynaconv.train.callbacks import EpochTable
from dynaconv.train.failures import how_to_resume
from dynaconv.train.folders import BEST, LAST
from dynaconv.train.stopping import RunStopped, StopSignals


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """How often a run is saved inside epochs; it is always saved at the end of an epoch.

    Attributes:
        every_steps: Updates of the weights between two checkpoints; by default only the time counts.
        every_minutes: Minutes between two checkpoints; null for none.
    """

    every_steps: int | None = None
    every_minutes: float | None = 10.0

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise RunError(f"checkpoint.every_steps must be at least 1; got {self.every_steps}.")
        if self.every_minutes is not None and not self.every_minutes > 0:
            raise RunError(f"checkpoint.every_minutes must be positive; got {self.every_minutes}.")


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it, so that an interrupted write damages no checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        # Serialised in memory first, because torch's file writer does not survive a full disk.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        except OSError as error:
            after = how_to_resume(path.with_name(LAST)) or " There is no checkpoint to resume from; train again."
            raise CheckpointError(f"cannot write the checkpoint {path}: {error.strerror or error}.{after}") from error


class SaveRun(Checkpoint):
    """Saves a run at the end of every epoch, inside epochs as ``options`` says, and when a signal asks it to stop.

    Lightning calls it after the other callbacks, so the checkpoint contains their state after the step. Lightning's
    `ModelCheckpoint` takes either steps or minutes, not both, and of equally good epochs it keeps the first one.

    Args:
        path: File of the last checkpoint, which each save overwrites. The best epoch is saved beside it.
        options: How often to save.
        stop: The signals that ask the run to stop.
        table: The metrics table, by which the best epoch is chosen.
        inside_epochs: Whether the run can be resumed inside an epoch; not if its training data is a stream.

    Attributes:
        last_saved: A sentence for messages that names the last checkpoint.
    """

    def __init__(
        self, path: Path, options: CheckpointOptions, stop: StopSignals, table: EpochTable, *, inside_epochs: bool
    ) -> None:
        self.path = path
        self.options = options
        self.stop = stop
        self.table = table
        self.inside_epochs = inside_epochs
        self.last_saved = "Nothing was saved yet."
        self._saved_step = 0
        self._saved_at = 0.0

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has replaced the handlers by its own.
        self.stop.install()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop.install()
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        if trainer.global_step:
            self.last_saved = f"The checkpoint of step {trainer.global_step} is kept."

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        # The signal or the time limit may have reached only some processes.
        requested = self._in_any_process(trainer, self.stop.received is not None or self._interval_elapsed())
        stopping = requested and self._in_any_process(trainer, self.stop.received is not None)
        if stopping and not self.inside_epochs:
            raise self._stopped(trainer, kept=self.last_saved)
        due = trainer.global_step - self._saved_step >= (self.options.every_steps or float("inf"))
        if (requested or due) and self._can_resume_after(trainer, batch_idx):
            self._save(trainer, pl_module)
            epoch = trainer.current_epoch + 1
            self.last_saved = f"The checkpoint of step {trainer.global_step}, in epoch {epoch}, is kept."
            if stopping:
                raise self._stopped(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.table.newest_is_best():
            # First, because a run that is killed in between repeats the epoch.
            trainer.save_checkpoint(self.path.with_name(BEST))
        self._save(trainer, pl_module)
        self.last_saved = f"The checkpoint after epoch {trainer.current_epoch + 1} is kept."
        if self._in_any_process(trainer, self.stop.received is not None):
            raise self._stopped(trainer)

    def _stopped(self, trainer: Trainer, *, kept: str = "") -> RunStopped:
        # The signal may have reached another process of the run; its name is unknown here.
        return RunStopped(
            self.stop.received or "SIGTERM", trainer.global_step, kept=kept, directory=self.path.parents[1]
        )

    def _interval_elapsed(self) -> bool:
        minutes = self.options.every_minutes
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    @staticmethod
    def _in_any_process(trainer: Trainer, value: bool) -> bool:
        """Return whether ``value`` is true in any process of the run."""
        return value if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(value, all=False)

    def _can_resume_after(self, trainer: Trainer, batch_idx: int) -> bool:
        """Return whether the run can be resumed from a checkpoint after this batch.

        It cannot after the last batch of an epoch: the validation and the row of the metrics table that follow need
        the sums of the epoch. The end of the epoch is saved anyway. It cannot either after a validation inside the
        epoch, as with ``trainer.val_check_interval``.
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
        # Each process holds one shard of a sharded parameter.
        shards = [getattr(parameter, "to_local", parameter.detach)() for parameter in pl_module.parameters()]
        if self._in_any_process(trainer, not bool(torch.stack([shard.isfinite().all() for shard in shards]).all())):
            raise TrainingDivergedError(
                f"weights are not finite after step {trainer.global_step}, so they are not saved; lower the learning "
                f"rate, lengthen the warm-up or clip gradients. {self.last_saved}"
            )
        trainer.save_checkpoint(self.path)
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
