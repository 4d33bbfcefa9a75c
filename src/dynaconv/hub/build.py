"""Builds networks from a description, and checks that a network can be rebuilt from its description."""

from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.conversion.example import eval_mode, random_images
from dynaconv.errors import CheckpointError, DynaconvError, received
from dynaconv.hub.config import HubConfig
from dynaconv.train.checkpoint import load_state
from dynaconv.train.factory import create_network


def build_network(config: HubConfig) -> nn.Module:
    """Build the network of a description, with initial weights, without changing the global random state.

    Raises:
        CheckpointError: The name is unknown, or an option or the conversion does not fit the network.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            return create_network(
                config.model,
                num_classes=config.num_classes,
                in_channels=config.in_channels,
                options=config.model_options,
                conversion=config.conversion,
            )
        except DynaconvError as error:
            raise CheckpointError(f"cannot build the network {received(config.model)}: {error}") from error


def check_rebuilds(network: nn.Module, config: HubConfig) -> None:
    """Check that a network rebuilt from description and weights computes the same outputs, on two random images.

    The outputs may differ by a thousandth of the difference between the two images' outputs, or by rounding (20 eps of
    the largest output).

    Raises:
        CheckpointError: The outputs differ by more, or the description cannot be written.
    """
    config.to_json()
    rebuilt = build_network(config)
    load_state(rebuilt, network.state_dict(), f"the state of this {type(network).__name__}", config.model)
    x = random_images(network, (2, config.in_channels, config.image_size, config.image_size))
    with eval_mode(network), torch.no_grad():
        expected, got = _logits(network, x), _logits(rebuilt.to(x.device, x.dtype).eval(), x)
    rounding = 20 * torch.finfo(x.dtype).eps * float(expected.abs().max())
    allowed = max(1e-3 * float((expected[0] - expected[1]).abs().max()), rounding)
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
            f"the network returns a {type(y).__name__}; one for the hub must return a tensor of logits."
        )
    return y.float()
