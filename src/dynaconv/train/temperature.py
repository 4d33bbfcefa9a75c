"""A Lightning callback that anneals the temperature of attention."""

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from dynaconv.errors import check_range
from dynaconv.families import set_temperature

EPOCHS = 10.0
"""Annealing epochs of the papers on DY-Conv and ODConv, whose runs have a hundred epochs or more."""


@dataclass(frozen=True, kw_only=True)
class TemperatureSchedule:
    """A linear change of the temperature.

    Args:
        start, end: Temperature at the first update and after the annealing; > 0.
        epochs: Length of the annealing, > 0, which may be a fraction; by default ten epochs, or a third of a run that
            is shorter than thirty.

    Raises:
        RunError: A temperature or the length is not positive.
    """

    start: float = 30.0
    end: float = 1.0
    epochs: float | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end", "epochs"):
            if (value := getattr(self, name)) is not None:
                check_range(f"temperature.{name}", value, 0, open_low=True)


class AnnealTemperature(Callback):
    """Changes the temperature of every layer that has one as a schedule says, then keeps it.

    A high temperature makes the attention nearly uniform, so that every kernel is trained at first. The temperature
    depends only on the number of the update, so a resumed run continues with the same values. It is a buffer of the
    layer and so part of every checkpoint.

    Reference: Chen et al., CVPR 2020, arXiv:1912.03458v2: from 30 to 1 over the first ten epochs.
    """

    def __init__(self, schedule: TemperatureSchedule) -> None:
        self.schedule = schedule

    def temperature(self, step: int, steps: float) -> float:
        """Return the temperature after ``step`` of ``steps`` annealed updates."""
        start, end = self.schedule.start, self.schedule.end
        return start + (end - start) * min(step / max(steps, 1.0), 1.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._set(trainer, pl_module)

    def _set(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the temperature for the next update and for a validation before it."""
        total = int(trainer.estimated_stepping_batches)
        per_epoch = max(trainer.num_training_batches / trainer.accumulate_grad_batches, 1.0)
        epochs = self.schedule.epochs
        steps = min(EPOCHS * per_epoch, total / 3) if epochs is None else epochs * per_epoch
        # `pl_module` also contains the moving average of the weights, if there is one.
        set_temperature(pl_module, self.temperature(trainer.global_step, steps))
