"""Rewrites the 1x1 DCD layers of an exported network into the form that a graph runtime computes fastest."""

import copy

import torch
from torch import nn

from dynaconv.conversion.proxy import CONV2D_ATTRIBUTES, ModuleProxy
from dynaconv.conversion.swap import all_names, replace_module
from dynaconv.deployment.norm_pairs import has_hooks
from dynaconv.families.dcd.deployed import DeployedDCDConv
from dynaconv.families.dcd.prepared import PreparedDCD, can_prepare


class RuntimeDCD(ModuleProxy, PreparedDCD):
    """A `PreparedDCD` that replaces the layer it was built from; that layer is no longer a submodule of the network."""

    _forwarded_names = CONV2D_ATTRIBUTES

    def __init__(self, layer: DeployedDCDConv, *, int8: bool = False) -> None:
        super().__init__(layer, convolves=True, int8=int8)
        self._set_replaced(layer)


def in_runtime_form(network: nn.Module, *, int8: bool = False) -> nn.Module:
    """Return a copy of a network whose 1x1 DCD layers are `RuntimeDCD`; the network itself if it has no such layer.

    Args:
        network: A network with deployed dynamic layers.
        int8: Choose the form of a network that will be quantised; see `form_of`.
    """
    if not _preparable_layers(network):
        return network
    network = copy.deepcopy(network)
    for layer, paths in _preparable_layers(network).items():
        if layer.context_features is not None:
            # It stays, because it may pass its context on or read another layer's.
            layer.use_prepared(PreparedDCD(layer, convolves=True))
            continue
        form = RuntimeDCD(layer, int8=int8)
        if paths == [""]:
            return form
        replace_module(network, paths, form)
    return network


def _preparable_layers(network: nn.Module) -> dict[DeployedDCDConv, list[str]]:
    return {
        module: names
        for module, names in all_names(network).items()
        if isinstance(module, DeployedDCDConv) and _is_preparable(module)
    }


def _is_preparable(layer: DeployedDCDConv) -> bool:
    """Return whether a layer can be prepared, is in float32, and has neither a chosen algorithm nor hooks."""
    return can_prepare(layer) and layer.asked == "auto" and layer.weight.dtype == torch.float32 and not has_hooks(layer)
