"""Turns a network to export into the form that is quantised: operators on the whole batch, without a loop."""

import copy

from torch import nn

from dynaconv.export._dcd_form import in_runtime_form
from dynaconv.families import DeployedLayer


def in_int8_form(network: nn.Module) -> nn.Module | None:
    """Return a copy of a network in which no convolution has one kernel per sample; None if a layer needs one.

    In the copy, dynamic layers apply factors to feature maps, so that most of their work is convolutions with constant
    weights, or multiply rows of channels by one matrix per sample. Runtimes do both in int8. They do not quantise the
    body of a loop over the samples, or are slow at it.

    Args:
        network: A network with deployed dynamic layers.
    """
    network = copy.deepcopy(in_runtime_form(network, int8=True))
    for layer in network.modules():
        if not isinstance(layer, DeployedLayer) or layer.algorithm in ("factored", "prepared"):
            continue
        if layer.asked != "auto" or "factored" not in layer.algorithms:
            return None
        layer.algorithm = "factored"
    return network
