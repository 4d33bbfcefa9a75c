"""Loads the network that a run starts from, if it does not start from random weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynaconv.conversion.checkpoint_file import read_checkpoint
from dynaconv.errors import CheckpointError, counted
from dynaconv.train.checkpoint import holds_metadata, load_state, load_trained
from dynaconv.train.factory import create_network


def start_from(
    weights: str, *, name: str, num_classes: int, in_channels: int, options: Mapping[str, Any] | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Load the network of a run, of ``dynaconv convert``, or of any state dict, to train it further.

    Its classifier is replaced by a fresh one if the number of classes differs.

    Args:
        weights: A run folder, a checkpoint of a run, or a file that holds a state dict of the network ``name``.
        name: The timm name that the network must have.
        num_classes, in_channels: Numbers of classes and channels of the data.
        options: Arguments of the model; none, or those it was built with.

    Returns:
        The network in train mode, and its structure: ``model_options`` and, if it was converted, ``conversion``.

    Raises:
        CheckpointError: The network cannot be loaded, is another model, or its images, classifier or options do not
            fit.
    """
    file = Path(weights).expanduser()
    if file.is_file() and not holds_metadata(file):
        return _from_state(file, name, num_classes, in_channels, options)
    model, metadata = load_trained(file, model=name)
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
    _set_classes(model, name, weights, metadata["num_classes"], num_classes)
    conversion = metadata.get("conversion")
    return model.train(), {"model_options": built_with, **({"conversion": conversion} if conversion else {})}


def _set_classes(model: nn.Module, name: str, weights: str | Path, own: int, wanted: int) -> None:
    """Replace the classifier unless it has the wanted number of classes."""
    if own == wanted:
        return
    reset = getattr(model, "reset_classifier", None)
    if not callable(reset):
        raise CheckpointError(
            f"the weights in {weights} are for {own} classes, the data have {wanted}, and {name} has no "
            f"reset_classifier() to change the number."
        )
    reset(wanted)


def _from_state(
    file: Path, name: str, num_classes: int, in_channels: int, options: Mapping[str, Any] | None
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network with as many classes as the state dict has, load it, and set the number of classes."""
    state = read_checkpoint(file).state
    model = create_network(name, num_classes=num_classes, in_channels=in_channels, options=options)
    own = _classes(model, state) or num_classes
    if own != num_classes:
        model = create_network(name, num_classes=own, in_channels=in_channels, options=options)
    load_state(model, state, str(file), name)
    _set_classes(model, name, file, own, num_classes)
    return model.train(), {"model_options": dict(options or {})}


def _classes(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes in a state dict of a timm model, which names its classifier; None if unknown."""
    classifier = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    weight = state.get(f"{classifier}.weight") if isinstance(classifier, str) else None
    return None if weight is None else len(weight)
