"""Published and static checkpoints into our networks."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.checkpoint_file import read_checkpoint
from dynaconv.conversion.explain import all_differences, model_to_build, what_it_is
from dynaconv.conversion.match import Match, match_state
from dynaconv.errors import CheckpointError, listed, with_article

_PUBLISHED_ONLY = {"DCD": ".fc.1.fc.0.weight", "ODConv": ".attention.channel_fc.weight"}
"""How a name ends that only a layer of the published structure has."""


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What `load_published` found in a file and did with it.

    Attributes:
        kind: ``DCD`` or ``ODConv`` for a published dynamic network, ``static``, or ``dynaconv`` for a state dict of
            the model itself.
        layout: How the file names its modules: ``torchvision MobileNetV2``, ``flat MobileNetV2`` (DCD's),
            ``timm MobileNetV2``, ``ResNet``, or None for names that were taken as they are.
        network: The network and its size, such as ``mobilenetv2_050``; None when unknown.
        entry: Where in the file the tensors were, such as ``state_dict``; empty when the file is the state dict.
        num_tensors: How many tensors were loaded.
        neutral: Names of the dynamic layers that were made neutral: they compute the file's static convolution.
        kept: Keys of the model's tensors that kept their values.
        missing, unexpected: Names in the file; empty unless ``strict=False``.
    """

    kind: str
    layout: str | None
    network: str | None
    entry: str
    num_tensors: int
    neutral: tuple[str, ...]
    kept: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.kind} {self.network or 'network'}: {self.num_tensors} tensors loaded"]
        parts += [f"from the entry {self.entry!r}"] if self.entry else []
        parts += [f"{len(self.neutral)} dynamic layers neutral"] if self.neutral else []
        parts += [f"{len(self.missing)} missing"] if self.missing else []
        parts += [f"{len(self.unexpected)} left out"] if self.unexpected else []
        return ", ".join(parts)


def load_published(
    model: nn.Module, path: str | os.PathLike[str] | Mapping[str, Any], *, strict: bool = True
) -> LoadReport:
    """Load a published or a static checkpoint into a network, in place: all of it, or nothing and an error.

    It takes what the published code of DCD and of ODConv writes, and the static networks of torchvision and timm; names
    and shapes are converted. A static checkpoint goes into the static twin, or into any dynamic network: each dynamic
    layer then computes the static convolution until it is trained. No code that a file holds is run.

    Args:
        model: One of our networks, built with the sizes of the file. A network with other names, such as a converted
            one, takes files that have these names too.
        path: A file that `torch.save` wrote, a ``.safetensors`` file, or a state dict in memory; the state dict may
            be an entry of it. Moving averages are taken when there is nothing else.
        strict: False leaves out tensors that the model has no place for, and keeps the model's where the file has
            none. Shapes have to fit in any case.

    Returns:
        What the file was and which tensors came from it.

    Raises:
        CheckpointError: The file cannot be read, holds code, or does not fit; the model is then as it was.
    """
    model = _inner(model)
    _check_model(model)
    file = read_checkpoint(path)
    match = match_state(model, file.state)
    _check_network(match, file.name, type(model).__name__)
    if match.misfits or (strict and (match.missing or match.unexpected)) or not match.fitting:
        raise CheckpointError(
            f"cannot load {file.name}, {what_it_is(match)}, into {type(model).__name__}: "
            f"{all_differences(match, file.state)}."
        )
    neutral = _loaded_static_layers(match) if match.kind == "static" else ()
    model.load_state_dict(match.fitting, strict=False)
    with torch.no_grad():
        for name in neutral:
            layer: Any = match.layers[name]
            layer._neutralise()
    return LoadReport(
        kind=match.kind,
        layout=match.layout,
        network=match.size,
        entry=file.entry,
        num_tensors=len(match.fitting),
        neutral=neutral,
        kept=tuple(key for key in model.state_dict() if key not in match.fitting),
        missing=tuple(match.missing),
        unexpected=tuple(match.unexpected),
    )


def _inner(model: nn.Module) -> nn.Module:
    """The network inside torch.compile, DataParallel and DistributedDataParallel."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"load_published takes a torch.nn.Module, then the checkpoint; got {with_article(type(model).__name__)}."
        )
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(
        inner := model.module if isinstance(model, wrappers) else getattr(model, "_orig_mod", None), nn.Module
    ):
        model = inner
    return model


def _check_model(model: nn.Module) -> None:
    if hasattr(model, "feature_info") and not hasattr(model, "reset_classifier"):
        raise CheckpointError(
            "the model was built with features_only=True, and a checkpoint is one of the whole network; load it into "
            "a model built without, and pass that model's state dict to features.load_state_dict(..., strict=False)."
        )
    state: dict[str, Tensor] = model.state_dict()
    if not state:
        raise CheckpointError(f"{type(model).__name__} has no parameters to load.")
    if any(tensor.is_meta for tensor in state.values()):
        raise CheckpointError("the model is on the meta device, which holds no weights; build it on the CPU.")


def _check_network(match: Match, file: str, model: str) -> None:
    """That the model is a network of the file's kind, whatever the sizes."""
    if not match.same_network:
        raise CheckpointError(
            f"cannot load {file} into {model}: it is {what_it_is(match)}, the model is a "
            f"{match.model_size or match.model_layout}; {model_to_build(match)}."
        )
    mark = _PUBLISHED_ONLY.get(match.kind)
    if mark is not None and not any(slot.file_key.endswith(mark) for slot in match.slots):
        kinds = sorted({type(layer).__name__ for layer in match.layers.values()})
        has = f"{listed(kinds, quote=False)} of another structure" if kinds else "static convolutions"
        raise CheckpointError(
            f"cannot load {file} into {model}: it is {what_it_is(match)} of the published code, the model has "
            f"{has}; {model_to_build(match)}."
        )


def _loaded_static_layers(match: Match) -> tuple[str, ...]:
    return tuple(name for name in match.layers if f"{name}.weight" in match.fitting)
