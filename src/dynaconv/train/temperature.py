"""A Lightning callback that anneals the temperature of attention."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from dynaconv.errors import RunError
from dynaconv.families import set_temperature

EPOCHS = 10.0
"""Epochs that the papers on DY-Conv and ODConv anneal over, in runs of a hundred and more."""


class AnnealTemperature(Callback):
    """Lowers the temperature of every layer that has one, in equal steps an update, then leaves it at the end.

    Even attention at first lets every kernel learn. The temperature follows from the number of the update, so a
    resumed run goes on where it stopped; being a buffer it is part of every checkpoint.

    Args:
        start, end: Temperature of the first update and after the last one annealed; > 0.
        epochs: Length, which may be a fraction; None for ten epochs, or a third of a run that is shorter than thirty.

    Raises:
        RunError: a temperature or the length is not positive.

    Reference: Chen et al., CVPR 2020, arXiv:1912.03458v2: from 30 to 1 over the first ten epochs.
    """

    def __init__(self, start: float = 30.0, end: float = 1.0, epochs: float | None = None) -> None:
        for name, value in (("start", start), ("end", end), ("epochs", 1.0 if epochs is None else epochs)):
            if not value > 0:
                raise RunError(f"temperature.{name} must be positive; got {value}.")
        self.start = start
        self.end = end
        self.epochs = epochs

    def temperature(self, step: int, steps: float) -> float:
        """The temperature after ``step`` of ``steps`` updates."""
        return self.start + (self.end - self.start) * min(step / max(steps, 1.0), 1.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._set(trainer, pl_module)

    def _set(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the temperature that the next update, or the validation before it, should have."""
        total = int(trainer.estimated_stepping_batches)
        per_epoch = max(trainer.num_training_batches / trainer.accumulate_grad_batches, 1.0)
        steps = min(EPOCHS * per_epoch, total / 3) if self.epochs is None else self.epochs * per_epoch
        # The moving average of the weights, where there is one, is a module of `pl_module` too.
        set_temperature(pl_module, self.temperature(trainer.global_step, steps))
