"""Scales the learning rate to the global batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer

from dynaconv.errors import RunError


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """Number of images in one update of the weights, with its factors.

    Attributes:
        batch_size: Images per step on one device.
        devices: Devices per node.
        nodes: Number of nodes.
        accumulation: Steps whose gradients are accumulated for one update.
    """

    batch_size: int
    devices: int
    nodes: int
    accumulation: int

    @property
    def processes(self) -> int:
        """Number of devices in all nodes."""
        return self.devices * self.nodes

    @property
    def images(self) -> int:
        """Images per update."""
        return self.batch_size * self.processes * self.accumulation

    def __str__(self) -> str:
        parts = ((self.devices, "device"), (self.nodes, "node"), (self.accumulation, "accumulated step"))
        factors = [f"{count} {word}s" for count, word in parts if count > 1]
        return f"{self.images:,} images an update" + (
            f" ({' x '.join([f'{self.batch_size:,}', *factors])})" if factors else ""
        )


def global_batch(trainer: Trainer) -> GlobalBatch:
    """Return the global batch of a run.

    Raises:
        RunError: The Trainer has no data module with a ``batch_size``.
    """
    batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    if batch_size is None:
        raise RunError("model.lr_reference_batch needs a data module with a batch_size; leave the option out.")
    return GlobalBatch(
        batch_size=batch_size,
        devices=trainer.num_devices,
        nodes=trainer.num_nodes,
        accumulation=trainer.accumulate_grad_batches,
    )


def scale_notes(batch: GlobalBatch, options: Mapping[str, Any], lr: float, rule: str) -> list[str]:
    """Return notes for the user about the batch and the learning rate; none for an ordinary run in one process.

    Args:
        batch: The global batch of the run.
        options: Arguments of the module.
        lr: Learning rate after scaling.
        rule: How the rate grows with the batch, for the note.
    """
    notes = [f"{batch}."] if batch.processes > 1 or batch.accumulation > 1 else []
    if options["lr_reference_batch"] is not None:
        notes.append(
            f"learning rate {lr:.4g}: {options['lr']:.4g} for {options['lr_reference_batch']:,} images an update, "
            f"scaled by {rule} to {batch.images:,}."
        )
    return notes
