"""What a network costs, beside its static twin."""

import dataclasses
from dataclasses import dataclass

from torch import nn

from dynaconv.analysis.profile import profile
from dynaconv.hub.build import build_network
from dynaconv.hub.config import HubConfig
from dynaconv.models import STATIC
from dynaconv.train.factory import is_own_model

_DYNAMIC_OPTIONS = ("dynamic_depthwise", "dynamic_downsample", "family_options", "fc_squeeze")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One row of the table.

    Attributes:
        name: What the network is.
        params: Number of parameters.
        macs: Multiply-adds of one image.
    """

    name: str
    params: int
    macs: int


def measure_costs(network: nn.Module, config: HubConfig) -> list[Cost]:
    """Parameters and multiply-adds of a network and, where there is one, of its static twin."""
    name = config.model if config.conversion is None else f"{config.model}, made dynamic"
    costs = [_measure(name, network, config)]
    if (twin := static_twin(config)) is not None:
        costs.append(_measure(f"{twin.model}, its static twin", build_network(twin), twin))
    return costs


def static_twin(config: HubConfig) -> HubConfig | None:
    """The description of the same network with ordinary convolutions; None where there is none."""
    if config.conversion is not None:
        twin = dataclasses.replace(config, conversion=None)
        return None if is_own_model(config.model) else twin
    family, _, size = config.model.partition("_")
    if not is_own_model(config.model) or family == STATIC:
        return None
    options = {key: value for key, value in config.model_options.items() if key not in _DYNAMIC_OPTIONS}
    return dataclasses.replace(config, model=f"static_{size.removesuffix('_published')}", model_options=options)


def _measure(name: str, network: nn.Module, config: HubConfig) -> Cost:
    found = profile(network, (config.in_channels, config.image_size, config.image_size))
    return Cost(name=name, params=found.params, macs=found.macs)
