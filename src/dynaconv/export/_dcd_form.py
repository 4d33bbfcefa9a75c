"""1x1 DCD layers of an exported network, prepared as a graph runtime computes them fastest."""

import copy

import torch
from torch import nn

from dynaconv.conversion.stand_in import CONV2D_ATTRIBUTES, StandIn
from dynaconv.conversion.swap import all_names, put
from dynaconv.deployment.norm_pairs import has_hooks
from dynaconv.families.dcd.deployed import DeployedDCDConv2d
from dynaconv.families.dcd.prepared import PreparedDCD, can_prepare
from dynaconv.native import NativeProgram


class RuntimeDCD(StandIn, PreparedDCD):
    """A prepared layer in the place of the one that it was made of, which is no part of the network any more."""

    _answers = CONV2D_ATTRIBUTES

    def __init__(self, layer: DeployedDCDConv2d, *, channels_last: bool) -> None:
        super().__init__(layer, channels_last=channels_last)
        self._stand_for(layer)


def in_runtime_form(network: nn.Module, *, channels_last: bool) -> nn.Module:
    """A copy of a network whose 1x1 DCD layers are of `RuntimeDCD`; the network itself where it has none.

    What native programs replaced stays: it is not written.

    Args:
        network: Its dynamic layers in their deployed form.
        channels_last: Whether the runtime keeps features that way, so that a product over rows of pixels costs no copy.
    """
    if not _layers(network):
        return network
    network = copy.deepcopy(network)
    for layer, paths in _layers(network).items():
        form = RuntimeDCD(layer, channels_last=channels_last)
        if paths == [""]:
            return form
        put(network, paths, form)
    return network


def _layers(network: nn.Module) -> dict[DeployedDCDConv2d, list[str]]:
    programs = [module for module in network.modules() if isinstance(module, NativeProgram)]
    replaced = {module for program in programs for module in program.modules()}
    found = {}
    for module, names in all_names(network).items():
        if isinstance(module, DeployedDCDConv2d) and _takes(module) and module not in replaced:
            found[module] = names
    return found


def _takes(layer: DeployedDCDConv2d) -> bool:
    """Whether a layer can be prepared in float32, and nothing hangs on how it computes."""
    return can_prepare(layer) and layer.asked == "auto" and layer.weight.dtype == torch.float32 and not has_hooks(layer)
