"""A Lightning callback that anneals the temperature of attention."""

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from dynaconv.errors import RunError, check_range, received
from dynaconv.families.contract.temperature import TemperatureRange, layers_with_temperature


@dataclass(frozen=True, kw_only=True)
class TemperatureSchedule:
    """A linear change of the temperature.

    Args:
        start, end: Temperature at the first update and after the annealing; by default those of the family's paper: 30
            and 1, or 1 and 0 for KernelWarehouse.
        epochs: Length of the annealing, > 0, which may be a fraction; by default as in the family's paper (ten epochs,
            20 for KernelWarehouse), or a third of the run if that is shorter.

    Raises:
        RunError: A temperature is negative, or the length is not positive.
    """

    start: float | None = None
    end: float | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end", "epochs"):
            if (value := getattr(self, name)) is not None:
                check_range(f"temperature.{name}", value, 0, open_low=name == "epochs")

    def ends(self, valid: TemperatureRange) -> tuple[float, float]:
        """Return the first and the last temperature of layers with this range.

        Raises:
            RunError: One of them is out of the range.
        """
        found = {"start": self.start, "end": self.end}
        for name, value in found.items():
            if value is not None and value not in valid:
                raise RunError(f"`model.temperature.{name}` must be {valid} for this network; got {received(value)}.")
        start, end = found["start"], found["end"]
        return valid.start if start is None else start, valid.end if end is None else end

    def check(self, model: nn.Module) -> None:
        """Raise RunError if a temperature is out of the range of a layer."""
        for layer in layers_with_temperature(model):
            self.ends(layer.temperature_range)


class AnnealTemperature(Callback):
    """Changes the temperature of every layer that has one as a schedule says, then keeps it.

    At its first temperature, the attention is nearly uniform or, in KernelWarehouse, each block is its starting cell,
    so that every kernel is trained at first. The temperature depends only on the number of the update, so a resumed run
    continues with the same values. It is saved with the layer's state and so part of every checkpoint.

    References: Chen et al., CVPR 2020, arXiv:1912.03458v2: from 30 to 1 over the first ten epochs. Li and Yao, ICML
        2024, arXiv:2406.07879: from 1 to 0 over the first 20 of 300 epochs.
    """

    def __init__(self, schedule: TemperatureSchedule) -> None:
        self.schedule = schedule

    def temperature(self, step: int, steps: float, valid: TemperatureRange) -> float:
        """Return the temperature of layers with this range after ``step`` of ``steps`` annealed updates."""
        start, end = self.schedule.ends(valid)
        share = min(step / max(steps, 1.0), 1.0)
        # Exact at both ends.
        return (1 - share) * start + share * end

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
        # `pl_module` also contains the moving average of the weights, if there is one.
        for layer in layers_with_temperature(pl_module):
            valid, epochs = layer.temperature_range, self.schedule.epochs
            steps = min(valid.epochs * per_epoch, total / 3) if epochs is None else epochs * per_epoch
            layer.temperature.fill_(self.temperature(trainer.global_step, steps, valid))
