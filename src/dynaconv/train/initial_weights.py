"""The network that a run starts from, when that is not a fresh one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dynaconv.errors import CheckpointError, counted
from dynaconv.train.checkpoint import load_trained


def start_from(
    weights: str, *, name: str, num_classes: int, in_channels: int, options: Mapping[str, Any] | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a network to train on: a run's, or one that ``dynaconv convert`` wrote.

    Its classifier is replaced by a fresh one where the number of classes differs.

    Args:
        weights: A run folder or checkpoint file.
        name: The timm name that it must have.
        num_classes, in_channels: What the data ask for.
        options: Arguments of the model; none, or the ones it was built with.

    Returns:
        The network in train mode, and what its structure is: ``model_options`` and, where it was converted,
        ``conversion``.

    Raises:
        CheckpointError: It cannot be loaded, is of another model, or its images, classifier or options do not fit.
    """
    model, metadata = load_trained(Path(weights), model=name)
    built_with = dict(metadata.get("model_options") or {})
    if options and dict(options) != built_with:
        raise CheckpointError(
            f"the weights in {weights} are for model_options={built_with}, and the run asks for {dict(options)}; "
            f"leave them out."
        )
    if metadata["in_channels"] != in_channels:
        raise CheckpointError(
            f"the weights in {weights} are for images of {counted(metadata['in_channels'], 'channel')}, and the data "
            f"have {in_channels}; pass --data.channels {metadata['in_channels']}."
        )
    if metadata["num_classes"] != num_classes:
        reset = getattr(model, "reset_classifier", None)
        if not callable(reset):
            raise CheckpointError(
                f"the weights in {weights} are for {metadata['num_classes']} classes, the data have {num_classes}, and "
                f"{name} has no reset_classifier() to change that."
            )
        reset(num_classes)
    conversion = metadata.get("conversion")
    return model.train(), {"model_options": built_with, **({"conversion": conversion} if conversion else {})}
