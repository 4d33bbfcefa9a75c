"""Loads the network that a run starts from, if it does not start from random weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dynaconv.errors import CheckpointError, counted
from dynaconv.train.checkpoint import load_trained


def start_from(
    weights: str, *, name: str, num_classes: int, in_channels: int, options: Mapping[str, Any] | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Load the network of a run, or one that ``dynaconv convert`` wrote, to train it further.

    Its classifier is replaced by a fresh one if the number of classes differs.

    Args:
        weights: A run folder or checkpoint file.
        name: The timm name that the network must have.
        num_classes, in_channels: Numbers of classes and channels of the data.
        options: Arguments of the model; none, or those it was built with.

    Returns:
        The network in train mode, and its structure: ``model_options`` and, if it was converted, ``conversion``.

    Raises:
        CheckpointError: The network cannot be loaded, is another model, or its images, classifier or options do not
            fit.
    """
    model, metadata = load_trained(Path(weights), model=name)
    built_with = dict(metadata.get("model_options") or {})
    if options and dict(options) != built_with:
        raise CheckpointError(
            f"the weights in {weights} are for model_options={built_with}, but the run has {dict(options)}; leave "
            f"them out."
        )
    if metadata["in_channels"] != in_channels:
        raise CheckpointError(
            f"the weights in {weights} are for images of {counted(metadata['in_channels'], 'channel')}, but the data "
            f"have {in_channels}; pass --data.channels {metadata['in_channels']}."
        )
    if metadata["num_classes"] != num_classes:
        reset = getattr(model, "reset_classifier", None)
        if not callable(reset):
            raise CheckpointError(
                f"the weights in {weights} are for {metadata['num_classes']} classes, the data have {num_classes}, and "
                f"{name} has no reset_classifier() to change the number."
            )
        reset(num_classes)
    conversion = metadata.get("conversion")
    return model.train(), {"model_options": built_with, **({"conversion": conversion} if conversion else {})}
