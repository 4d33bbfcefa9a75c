"""A network named on the command line: a timm name or a trained run."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynaconv.errors import RunError

if TYPE_CHECKING:
    from torch import nn

# What only a dynamic network takes.
_DYNAMIC_OPTIONS = ("family_options", "dynamic_depthwise", "dynamic_downsample", "fc_squeeze")
# What every network takes, another library's too.
_COMMON_OPTIONS = ("num_classes", "in_chans")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network and where it comes from.

    Attributes:
        title: What it is called in the output.
        model: The network.
        name: Its timm name.
        options: What it was built with, ``num_classes`` and ``in_chans`` always among it.
        size: (C, H, W) that it is made for.
        metadata: What the checkpoint of a run says; None for a network built by name.
    """

    title: str
    model: "nn.Module"
    name: str
    options: dict[str, Any]
    size: tuple[int, int, int]
    metadata: dict[str, Any] | None = None


def load_subject(given: str, size: tuple[int, int, int] | None, options: Mapping[str, Any]) -> Subject:
    """Build the network of a name, or load that of a run folder or checkpoint file.

    Args:
        given: What stands on the command line.
        size: (C, H, W) it will be given; a network built by name takes as many channels.
        options: Arguments of a network built by name.

    Raises:
        RunError: The name is unknown, it does not take the options, or options are given for a run.
        CheckpointError: The run cannot be loaded.
    """
    path = Path(given).expanduser()
    if not (path.exists() or os.sep in given or given.endswith((".safetensors", ".ckpt"))):
        return _built(given, size, options)
    if options.keys() - set(_COMMON_OPTIONS):
        raise RunError(f"{given} is a trained run, which has its own options; leave --option.")
    from dynaconv.train.checkpoint import load_trained

    model, facts = load_trained(path)
    side, channels = int(facts["image_size"]), int(facts["in_channels"])
    own = {**(facts.get("model_options") or {}), "num_classes": facts["num_classes"], "in_chans": channels}
    title = f"{facts['model']} of {given}"
    return Subject(
        title=title, model=model, name=facts["model"], options=own, size=(channels, side, side), metadata=facts
    )


def _built(name: str, size: tuple[int, int, int] | None, options: Mapping[str, Any]) -> Subject:
    import timm

    import dynaconv.models  # noqa: F401  # registers the names
    from dynaconv.train.factory import create_network

    known = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name.split(".", 1)[0]) else None
    own_size = known.input_size if known is not None else (3, 224, 224)
    given = {
        "num_classes": known.num_classes if known is not None else 1000,
        "in_chans": size[0] if size is not None else own_size[0],
        **options,
    }
    for key, least in (("num_classes", 0), ("in_chans", 1)):
        value = given[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise RunError(f"{key} of {name} is a whole number of at least {least}; got {value!r}.")
    further = {key: value for key, value in given.items() if key not in _COMMON_OPTIONS}
    model = create_network(name, num_classes=given["num_classes"], in_channels=given["in_chans"], options=further)
    return Subject(
        title=name, model=model, name=name, options=given, size=(given["in_chans"], own_size[1], own_size[2])
    )


def static_twin(name: str) -> str | None:
    """Name of the static network of the same structure; None for a static network and another library's."""
    from dynaconv.families import families
    from dynaconv.models import STATIC
    from dynaconv.train.factory import is_own_model

    if not is_own_model(name):
        return None
    if name.startswith(f"{STATIC}_"):
        return None
    family = max((each.name for each in families() if name.startswith(f"{each.name}_")), key=len)
    return f"{STATIC}_{name.removeprefix(f'{family}_').removesuffix('_published')}"


def carried_options(subject: Subject, name: str) -> dict[str, Any]:
    """The options of a network that one to compare it with takes as well; those of the structure between our own."""
    from dynaconv.train.factory import is_own_model

    if not (is_own_model(subject.name) and is_own_model(name)):
        return {key: subject.options[key] for key in _COMMON_OPTIONS}
    return {key: value for key, value in subject.options.items() if key not in _DYNAMIC_OPTIONS}
