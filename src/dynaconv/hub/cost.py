"""Parameters and multiply-adds of a network and its static twin."""

import dataclasses
from dataclasses import dataclass

from torch import nn

from dynaconv.hub.build import build_network
from dynaconv.hub.config import HubConfig
from dynaconv.measure.profile import profile
from dynaconv.models import STATIC
from dynaconv.train.factory import is_own_model

_DYNAMIC_OPTIONS = ("dynamic_depthwise", "dynamic_downsample", "family_options", "fc_squeeze")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one network: a row of the table.

    Attributes:
        name: Description of the network.
        params: Number of parameters.
        macs: Number of multiply-adds per image.
    """

    name: str
    params: int
    macs: int


def measure_costs(network: nn.Module, config: HubConfig) -> list[Cost]:
    """Count parameters and multiply-adds of a network and of its static twin, if there is one."""
    name = config.model if config.conversion is None else f"{config.model}, made dynamic"
    costs = [_measure(name, network, config)]
    if (twin := static_twin(config)) is not None:
        costs.append(_measure(f"{twin.model}, its static twin", build_network(twin), twin))
    return costs


def static_twin(config: HubConfig) -> HubConfig | None:
    """Return the description of the same network with static convolutions; None if there is none."""
    if config.conversion is not None:
        twin = dataclasses.replace(config, conversion=None)
        return None if is_own_model(config.model) else twin
    family, _, size = config.model.partition("_")
    if not is_own_model(config.model) or family == STATIC:
        return None
    options = {key: value for key, value in config.model_options.items() if key not in _DYNAMIC_OPTIONS}
    return dataclasses.replace(config, model=f"static_{size.removesuffix('_published')}", model_options=options)


def _measure(name: str, network: nn.Module, config: HubConfig) -> Cost:
    counted = profile(network, (config.in_channels, config.image_size, config.image_size))
    return Cost(name=name, params=counted.params, macs=counted.macs)
