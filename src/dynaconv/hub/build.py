"""From a description and a safetensors file to a network, and the check that a network can be built again."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dynaconv.analysis._units import eval_mode
from dynaconv.conversion import apply_conversion, conversion_of
from dynaconv.errors import CheckpointError, DynaconvError, counted, with_article
from dynaconv.hub.config import HubConfig
from dynaconv.train.factory import create_network


def build_network(config: HubConfig) -> nn.Module:
    """The network of a description, its weights at their initial values; the random state is left as it was.

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
    """Read a safetensors file.

    Raises:
        CheckpointError: It is not there or damaged. Pickled weights beside it are not looked at.
    """
    if not file.is_file():
        raise CheckpointError(
            f"the folder {file.parent} holds no {file.name}; dynaconv reads weights from safetensors files alone."
        )
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged, incomplete or no safetensors file; fetch or save it again."
        ) from error


def load_weights(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict that fits exactly.

    Args:
        network: What the weights go into.
        state: The weights.
        source: What they are, for the error message.

    Raises:
        CheckpointError: A tensor is missing, has another shape or has no place; nothing is loaded.
    """
    own = network.state_dict()
    unlike = [key for key in own if key not in state or state[key].shape != own[key].shape]
    unlike += [key for key in state if key not in own]
    if unlike:
        key = unlike[0]
        came = tuple(state[key].shape) if key in state else "nothing"
        wanted = tuple(own[key].shape) if key in own else "nothing"
        raise CheckpointError(
            f"{source} does not fit the network at {counted(len(unlike), 'tensor')}, the first of which is {key!r} "
            f"(weights: {came}, network: {wanted})."
        )
    network.load_state_dict(dict(state))


def with_conversion(config: HubConfig, network: nn.Module) -> HubConfig:
    """Add to the description what was converted in a network beyond what its timm name has dynamic."""
    record, built_in = conversion_of(network), conversion_of(build_network(config))
    converted = {name: entry for name, entry in record.items() if name not in built_in}
    if not converted:
        return config
    return dataclasses.replace(config, conversion=json.loads(json.dumps(converted)))


def written_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict as safetensors takes it: on the CPU, each tensor in memory of its own."""
    return {key: value.detach().cpu().clone().contiguous() for key, value in network.state_dict().items()}


def check_rebuilds(network: nn.Module, config: HubConfig, state: Mapping[str, Tensor]) -> None:
    """Check that description and weights give a network that computes what this one does, on two random images.

    What the two outputs differ by says how much the input matters; the networks may differ by a thousandth of that, or
    by rounding.

    Raises:
        CheckpointError: They do not, or the description cannot be written.
    """
    config.to_json()
    again = build_network(config)
    load_weights(again, state, f"the state of this {type(network).__name__}")
    parameter = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    again = again.to(parameter.device, parameter.dtype).eval()
    size = (2, config.in_channels, config.image_size, config.image_size)
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(parameter.device, parameter.dtype)
    with eval_mode(network), torch.no_grad():
        expected, got = _logits(network, x), _logits(again, x)
    rounding = 20 * torch.finfo(parameter.dtype).eps * expected.abs().max()
    allowed = max(1e-3 * float((expected[0] - expected[1]).abs().max()), float(rounding))
    if expected.shape != got.shape or not torch.allclose(expected, got, rtol=0, atol=allowed, equal_nan=True):
        raise CheckpointError(
            f"the network does not compute what {config.model} with model_options={config.model_options} computes with "
            f"the same weights; pass the `model` and `model_options` it was made with."
        )


def _logits(network: nn.Module, x: Tensor) -> Tensor:
    try:
        y: Any = network(x)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"the network does not take an input of size {tuple(x.shape)}: {error}") from error
    if not isinstance(y, Tensor):
        raise CheckpointError(
            f"the network gives {with_article(type(y).__name__)}; one for the hub gives a tensor of logits."
        )
    return y.float()
