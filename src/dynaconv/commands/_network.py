"""Loads a network that is named on the command line: a timm name or a trained run."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynaconv.commands._arguments import Size
from dynaconv.errors import RunError, counted

if TYPE_CHECKING:
    from torch import nn

    from dynaconv.export import ImageInfo

# Options that every network has, also those of other libraries.
_COMMON_OPTIONS = ("num_classes", "in_chans")


@dataclass(frozen=True, kw_only=True)
class LoadedNetwork:
    """A network, with its name and options.

    Attributes:
        title: Name of the network in the output.
        model: The network.
        name: Its timm name.
        options: Arguments it was built with, always including ``num_classes`` and ``in_chans``.
        size: The requested input size or else its own, (C, H, W).
        metadata: Metadata of a run's checkpoint; None for a network built by name.
    """

    title: str
    model: "nn.Module"
    name: str
    options: dict[str, Any]
    size: tuple[int, int, int]
    metadata: dict[str, Any] | None = None

    def image_info(self) -> "ImageInfo | None":
        """Return the description of the images, of a run or in timm's config; None if there is none for them."""
        from dynaconv.export import ImageInfo

        facts = self.metadata or getattr(self.model, "pretrained_cfg", None) or {}
        if len(facts.get("mean") or ()) != self.size[0]:
            return None
        return replace(ImageInfo.of(facts), image_size=self.size[1:])


def is_run(given: str) -> bool:
    """Return whether an argument is a path of a run folder or checkpoint file, not a timm name."""
    return Path(given).expanduser().exists() or os.sep in given or given.endswith((".safetensors", ".ckpt"))


def load_network(given: str, size: Size | None, options: Mapping[str, Any]) -> LoadedNetwork:
    """Build a network by name, or load the network of a run folder or checkpoint file.

    Args:
        given: The argument from the command line.
        size: Requested input size; a network built by name gets that number of channels.
        options: Arguments of a network built by name.

    Raises:
        RunError: The name is unknown, the network lacks an option, or options or other channels are given for a run.
        CheckpointError: The run cannot be loaded.
    """
    if not is_run(given):
        return _built(given, size, options)
    if options:
        raise RunError(f"{given} is a trained run, which has its own options; leave --option out.")
    from dynaconv.train.checkpoint import load_trained

    model, facts = load_trained(given)
    channels = int(facts["in_channels"])
    wanted, *sides = size or (None, int(facts["image_size"]), int(facts["image_size"]))
    if wanted not in (None, channels):
        raise RunError(f"{given} takes images of {counted(channels, 'channel')}, not {wanted}.")
    own = {**(facts.get("model_options") or {}), "num_classes": facts["num_classes"], "in_chans": channels}
    title = f"{facts['model']} of {given}"
    return LoadedNetwork(
        title=title, model=model, name=facts["model"], options=own, size=(channels, sides[0], sides[1]), metadata=facts
    )


def _built(name: str, size: Size | None, options: Mapping[str, Any]) -> LoadedNetwork:
    import timm

    from dynaconv.families.contract.checks import check_integer
    from dynaconv.train.factory import check_model_name, create_network

    check_model_name(name)
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    own_size = known.input_size if known is not None else (3, 224, 224)
    given = {
        "num_classes": known.num_classes if known is not None else 1000,
        "in_chans": (size and size[0]) or own_size[0],
        **options,
    }
    for key, least in (("num_classes", 0), ("in_chans", 1)):
        check_integer(f"{key} of {name}", given[key], least=least, error=RunError)
    further = {key: value for key, value in given.items() if key not in _COMMON_OPTIONS}
    model = create_network(name, num_classes=given["num_classes"], in_channels=given["in_chans"], options=further)
    _, height, width = size or own_size
    return LoadedNetwork(title=name, model=model, name=name, options=given, size=(given["in_chans"], height, width))


def shared_options(network: LoadedNetwork, name: str) -> dict[str, Any]:
    """Return the options that a network shares with ``name``: between dynaconv's networks, all that are not dynamic."""
    from dynaconv.train.factory import is_own_model, static_options

    if not (is_own_model(network.name) and is_own_model(name)):
        return {key: network.options[key] for key in _COMMON_OPTIONS}
    return static_options(network.options)
