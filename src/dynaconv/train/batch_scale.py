"""The learning rate for the batch that all processes make together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch import Trainer

from dynaconv.errors import RunError


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """How many images one update of the weights sees.

    Attributes:
        batch_size: Images a step on one device.
        devices: In one node.
        nodes: Machines.
        accumulation: Steps whose gradients are added for one update.
    """

    batch_size: int
    devices: int
    nodes: int
    accumulation: int

    @property
    def processes(self) -> int:
        """Devices of all nodes."""
        return self.devices * self.nodes

    @property
    def images(self) -> int:
        """Images an update."""
        return self.batch_size * self.processes * self.accumulation

    def __str__(self) -> str:
        parts = ((self.devices, "device"), (self.nodes, "node"), (self.accumulation, "accumulated step"))
        factors = [f"{count} {word}s" for count, word in parts if count > 1]
        return f"{self.images:,} images an update" + (
            f" ({' x '.join([f'{self.batch_size:,}', *factors])})" if factors else ""
        )


def global_batch(trainer: Trainer) -> GlobalBatch:
    """Return what one update of a run sees.

    Raises:
        RunError: The Trainer has no data module that tells its batch size.
    """
    batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    if batch_size is None:
        raise RunError("model.lr_reference_batch needs a data module that tells its batch_size; leave it out.")
    return GlobalBatch(
        batch_size=batch_size,
        devices=trainer.num_devices,
        nodes=trainer.num_nodes,
        accumulation=trainer.accumulate_grad_batches,
    )


def lr_scale(images: int, reference: int | None, optimizer: Literal["sgd", "adamw"]) -> float:
    """Return the factor on a learning rate that was chosen for another batch.

    Args:
        images: Images an update.
        reference: Images an update that the rate was chosen for; ``None`` leaves it as it is.
        optimizer: The rate grows in proportion to the batch with SGD, with its square root with AdamW.
    """
    if reference is None:
        return 1.0
    ratio = images / reference
    return math.sqrt(ratio) if optimizer == "adamw" else ratio


def scale_notes(batch: GlobalBatch, options: Mapping[str, Any], lr: float) -> list[str]:
    """Return what a user should hear about a run's batch and rate; nothing for an ordinary run in one process.

    Args:
        batch: Of the run.
        options: Arguments of the module.
        lr: The rate after scaling.
    """
    notes = [f"{batch}."] if batch.processes > 1 or batch.accumulation > 1 else []
    if options["lr_reference_batch"] is not None:
        rule = "the square root of the batch" if options["optimizer"] == "adamw" else "the batch"
        notes.append(
            f"learning rate {lr:.4g}: {options['lr']:.4g} for {options['lr_reference_batch']:,} images an update, "
            f"scaled by {rule} to {batch.images:,}."
        )
    return notes
