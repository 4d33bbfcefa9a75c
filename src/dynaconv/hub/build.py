"""Builds networks from a description and a safetensors file, and checks that a network can be rebuilt."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dynaconv.conversion import apply_conversion, conversion_of
from dynaconv.conversion.checkpoint_file import mismatches
from dynaconv.conversion.example import eval_mode
from dynaconv.errors import CheckpointError, DynaconvError, counted, with_article
from dynaconv.hub.config import HubConfig
from dynaconv.train.factory import create_network


def build_network(config: HubConfig) -> nn.Module:
    """Build the network of a description, with initial weights, without changing the global random state.

    Raises:
        CheckpointError: The name is unknown, or an option or the conversion does not fit the network.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            network = create_network(
                config.model,
                num_classes=config.num_classes,
                in_channels=config.in_channels,
                options=config.model_options,
            )
            return network if config.conversion is None else apply_conversion(network, config.conversion)
        except DynaconvError as error:
            raise CheckpointError(f"cannot build the network {config.model}: {error}") from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Pickled weights in the same folder are ignored.

    Raises:
        CheckpointError: The file does not exist or is damaged.
    """
    if not file.is_file():
        raise CheckpointError(
            f"the folder {file.parent} holds no {file.name}; dynaconv reads weights from safetensors files only."
        )
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged, incomplete or no safetensors file; download or save it again."
        ) from error


def load_weights(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict, which must fit the network exactly.

    Args:
        network: The network to load into.
        state: The weights.
        source: Name of the weights, for error messages.

    Raises:
        CheckpointError: A tensor is missing, is unexpected or has another shape; nothing is loaded then.
    """
    if mismatched := mismatches(network, state):
        first = mismatched[0]
        raise CheckpointError(
            f"{source} does not fit the network: {counted(len(mismatched), 'tensor')} cannot be loaded, the first is "
            f"{first.key!r} (weights: {first.given}, network: {first.expected})."
        )
    network.load_state_dict(dict(state))


def with_conversion(config: HubConfig, network: nn.Module) -> HubConfig:
    """Add to a description the record of all dynamic layers that the timm model does not have by itself."""
    record, built_in = conversion_of(network), conversion_of(build_network(config))
    converted = {name: entry for name, entry in record.items() if name not in built_in}
    if not converted:
        return config
    return dataclasses.replace(config, conversion=json.loads(json.dumps(converted)))


def cpu_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict as safetensors needs it: on the CPU, no two tensors sharing memory."""
    return {key: value.detach().cpu().clone().contiguous() for key, value in network.state_dict().items()}


def check_rebuilds(network: nn.Module, config: HubConfig, state: Mapping[str, Tensor]) -> None:
    """Check that a network rebuilt from description and weights computes the same outputs, on two random images.

    The outputs may differ by a thousandth of the difference between the two images' outputs, or by rounding (20 eps of
    the largest output).

    Raises:
        CheckpointError: The outputs differ by more, or the description cannot be written.
    """
    config.to_json()
    rebuilt = build_network(config)
    load_weights(rebuilt, state, f"the state of this {type(network).__name__}")
    parameter = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    rebuilt = rebuilt.to(parameter.device, parameter.dtype).eval()
    size = (2, config.in_channels, config.image_size, config.image_size)
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(parameter.device, parameter.dtype)
    with eval_mode(network), torch.no_grad():
        expected, got = _logits(network, x), _logits(rebuilt, x)
    rounding = 20 * torch.finfo(parameter.dtype).eps * expected.abs().max()
    allowed = max(1e-3 * float((expected[0] - expected[1]).abs().max()), float(rounding))
    if expected.shape != got.shape or not torch.allclose(expected, got, rtol=0, atol=allowed, equal_nan=True):
        raise CheckpointError(
            f"the outputs of the network differ from those of {config.model} with model_options={config.model_options} "
            f"and the same weights; pass the `model` and `model_options` that the network was built with."
        )


def _logits(network: nn.Module, x: Tensor) -> Tensor:
    try:
        y: Any = network(x)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"the network does not accept an input of size {tuple(x.shape)}: {error}") from error
    if not isinstance(y, Tensor):
        raise CheckpointError(
            f"the network returns {with_article(type(y).__name__)}; one for the hub must return a tensor of logits."
        )
    return y.float()
