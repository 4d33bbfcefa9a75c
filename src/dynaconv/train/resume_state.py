"""Adds to checkpoints the state that Lightning lacks, so that a resumed run equals an uninterrupted one."""

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics import Metric

RUN_KEY = "dynaconv_run"
"""Key of that state in a checkpoint."""
_METRICS = ("train_loss", "train_acc")


def generator_states(device: torch.device) -> dict[str, Any]:
    """Return the states of this process's global random generators, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_generator_states(states: dict[str, Any], device: torch.device) -> None:
    """Set the global random generators to the states that `generator_states` returned."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def _metric_state(metric: Metric) -> dict[str, Any]:
    values = {name: torch.as_tensor(value).cpu() for name, value in metric.metric_state.items()}
    return {"values": values, "updates": metric._update_count}


def _set_metric_state(metric: Metric, state: dict[str, Any]) -> None:
    for name, value in state["values"].items():
        setattr(metric, name, value.to(metric.device))
    metric._update_count = state["updates"]


class ExactState(Callback):
    """Seeds each epoch, and adds to every checkpoint the state that determines the rest of its epoch.

    The generators are seeded from the run's seed, the epoch and the process at the start of every epoch, so a
    checkpoint at the end of an epoch needs no generator states. One inside an epoch contains, for each process, the
    states of its generators (which mixup and dropout use) and the sums of the metrics.

    Args:
        seed: The run's seed.
        facts: Further values in a checkpoint, which `resume` checks.
    """

    def __init__(self, seed: int, facts: dict[str, Any]) -> None:
        self.seed = seed
        self.facts = facts
        self._epochs = 0
        self._batches = 0
        self._pending: dict[str, Any] | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch_seed = (self.seed * 1_000_003 + trainer.current_epoch * 8_191 + trainer.global_rank) % 2**32
        random.seed(epoch_seed)
        np.random.seed(epoch_seed)  # timm's mixup draws from the global generator
        torch.manual_seed(epoch_seed)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Not when the checkpoint is loaded, because Lightning draws random numbers between that and here.
        if self._pending is not None:
            set_generator_states(self._pending["generators"], pl_module.device)
            for name in _METRICS:
                _set_metric_state(getattr(pl_module, name), self._pending[name])
            self._pending = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._epochs, self._batches = trainer.current_epoch, batch_idx + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epochs, self._batches = trainer.current_epoch + 1, 0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[RUN_KEY] = {
            **self.facts,
            "epochs": self._epochs,
            "batches": self._batches,
            "world_size": trainer.world_size,
            "processes": self._processes(trainer, pl_module) if self._batches else [],
        }

    def _processes(self, trainer: Trainer, pl_module: LightningModule) -> list[dict[str, Any]]:
        own: dict[str, Any] = {"generators": generator_states(pl_module.device)}
        own |= {name: _metric_state(getattr(pl_module, name)) for name in _METRICS}
        if trainer.world_size == 1:
            return [own]
        states_of_all: list[Any] = [None] * trainer.world_size
        dist.all_gather_object(states_of_all, own)
        return states_of_all

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        run = checkpoint.get(RUN_KEY) or {}
        if run.get("batches"):
            self._pending = run["processes"][trainer.global_rank]
