"""Loads published and static checkpoints into dynaconv's networks."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.checkpoint_file import read_checkpoint
from dynaconv.conversion.explain import build_advice, difference_report, file_description
from dynaconv.conversion.match import Match, match_state, published_kinds
from dynaconv.errors import CheckpointError, listed
from dynaconv.families.contract.checks import check_module


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """Result of `load_published`.

    Attributes:
        kind: ``DCD``, ``FDConv``, ``KernelWarehouse`` or ``ODConv`` for a published dynamic network, ``static``, or
            ``dynaconv`` for a state dict of the model itself.
        layout: Naming scheme of the file's modules: ``torchvision MobileNetV2``, ``flat MobileNetV2`` (DCD's),
            ``timm MobileNetV2`` or ``ResNet``; None if the names were used unchanged.
        network: Network and size, such as ``mobilenetv2_050``; None if unknown.
        entry: Entry of the file that held the tensors, such as ``state_dict``; empty if the file is the state dict.
        num_tensors: Number of loaded tensors.
        neutral: Names of the dynamic layers that were made neutral: they compute the file's static convolution.
        kept: Keys of the model's tensors that were not loaded.
        missing, unexpected: Names, as in the file, of tensors that the file or the model lacks; empty if ``strict``.
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
    """Load a published or a static checkpoint into a network, in place.

    Supported are checkpoints of the published DCD, FDConv, KernelWarehouse and ODConv code and of torchvision's and
    timm's static networks; names and shapes are converted. A static checkpoint fits the static twin and any dynamic
    network: each dynamic layer then computes the static convolution until it is trained. Code in a file is never run.

    Args:
        model: A network of dynaconv, built with the sizes of the file. A network with other module names, such as a
            converted one, can load files with the same names.
        path: A file written by `torch.save`, a ``.safetensors`` file, or a state dict in memory. The state dict may be
            an entry of it. Moving averages of the weights are used only if there are no other weights.
        strict: If False, tensors that the model lacks are skipped, and tensors that the file lacks keep their values in
            the model. Shapes must fit in any case.

    Returns:
        The kind of checkpoint, and which tensors were loaded.

    Raises:
        CheckpointError: The file cannot be read, holds code, or does not fit; the model is then unchanged.
    """
    model = _unwrap(model)
    _check_model(model)
    file = read_checkpoint(path)
    match = match_state(model, file.state)
    _check_network(match, file.name, type(model).__name__)
    if match.misfits or (strict and (match.missing or match.unexpected)) or not match.fitting:
        raise CheckpointError(
            f"cannot load {file.name}, {file_description(match)}, into {type(model).__name__}: "
            f"{difference_report(match, file.state)}."
        )
    neutral = _loaded_static_layers(match) if match.kind == "static" else ()
    for name in neutral:
        if (reason := match.layers[name].static_kernel_refusal()) is not None:
            raise CheckpointError(f"cannot load {file.name}, {file_description(match)}, into {name!r}: {reason}.")
    kernels = {id(match.layers[name].stored_kernel) for name in neutral}
    replaced = {key for key, parameter in model.named_parameters() if id(parameter) in kernels}
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
        kept=tuple(key for key in model.state_dict() if key not in match.fitting and key not in replaced),
        missing=tuple(match.missing),
        unexpected=tuple(match.unexpected),
    )


def _unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside torch.compile, DataParallel and DistributedDataParallel."""
    check_module(model)
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(
        inner := model.module if isinstance(model, wrappers) else getattr(model, "_orig_mod", None), nn.Module
    ):
        model = inner
    return model


def _check_model(model: nn.Module) -> None:
    if hasattr(model, "feature_info") and not hasattr(model, "reset_classifier"):
        raise CheckpointError(
            "the model was built with features_only=True, but a checkpoint holds the whole network; load it into a "
            "model built without, then pass that model's state dict to features.load_state_dict(..., strict=False)."
        )
    state: dict[str, Tensor] = model.state_dict()
    if not state:
        raise CheckpointError(f"{type(model).__name__} has no parameters to load.")
    if any(tensor.is_meta for tensor in state.values()):
        raise CheckpointError("the model is on the meta device and has no weights; build it on the CPU.")


def _check_network(match: Match, file: str, model: str) -> None:
    """Check that the model is a network of the file's kind, of any size."""
    if not match.same_network:
        raise CheckpointError(
            f"cannot load {file} into {model}: the file is {file_description(match)}, the model is a "
            f"{match.model_size or match.model_layout}; {build_advice(match)}."
        )
    keys = published_kinds().get(match.kind)
    if keys is not None and not any(slot.file_key.endswith(keys.marker) for slot in match.slots):
        kinds = sorted({type(layer).__name__ for layer in match.layers.values()})
        structure = f"{listed(kinds, quote=False)} of another structure" if kinds else "static convolutions"
        raise CheckpointError(
            f"cannot load {file} into {model}: the file is {file_description(match)} of the published code, the model "
            f"has {structure}; {build_advice(match)}."
        )


def _loaded_static_layers(match: Match) -> tuple[str, ...]:
    return tuple(name for name in match.layers if f"{name}.weight" in match.fitting)
