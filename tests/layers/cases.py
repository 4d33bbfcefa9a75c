"""One constructor call for every form of DCD, over the contract tests."""

from collections.abc import Callable
from typing import Any

from torch import nn

from dynaconv.layers import DCDConv2d
from dynaconv.layers.branch import DynamicBranch

CASES: dict[str, dict[str, Any]] = {
    "pointwise": {"kernel_size": 1},
    "pointwise-stride": {"kernel_size": 1, "stride": 2},
    "sparse": {"kernel_size": 1, "blocks": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2, "blocks": 4},
    "channel": {"kernel_size": 3, "stride": 2, "padding": 1},
    "channel-dilated": {"kernel_size": (3, 5), "padding": (1, 0), "dilation": (2, 1)},
    "channel-even": {"kernel_size": (2, 4), "padding": "same"},
    "channel-reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
    "joint": {"kernel_size": 3, "padding": 1, "fusion": "joint"},
    "joint-sizes": {"kernel_size": 3, "fusion": "joint", "latent_dim": 3, "latent_taps": 9, "blocks": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 8, "out_channels": 8},
    "depthwise-multiplier": {"kernel_size": 5, "padding": 2, "stride": 2, "groups": 8, "out_channels": 16},
    "scale": {"kernel_size": 3, "variant": "scale"},
    "residual": {"kernel_size": 1, "variant": "residual"},
    "context-2x2": {"kernel_size": 1, "context_size": 2},
    "bare": {"kernel_size": 1, "context_norm": None, "hidden_norm": None, "gain": 1, "bias": False},
    "gate": {"kernel_size": 1, "activation": "gate", "scale_activation": "hard_sigmoid"},
    "silu-tanh": {"kernel_size": 1, "activation": "silu", "scale_activation": "tanh"},
    "gelu-sigmoid": {"kernel_size": 1, "activation": "gelu", "scale_activation": "sigmoid"},
    "norm": {"kernel_size": 1, "norm": "batch"},
    "norm-channel": {"kernel_size": 3, "padding": 1, "stride": 2, "norm": "batch", "context_size": 2},
    "norm-sparse": {"kernel_size": 3, "groups": 2, "blocks": 4, "norm": "batch", "padding": 0},
}
IN_CHANNELS = 8


def make(name: str, **overrides: Any) -> DCDConv2d:
    """The layer of a case, its dynamic part large enough to show in every result."""
    arguments = {"in_channels": IN_CHANNELS, "out_channels": 12, **CASES[name], **overrides}
    layer = DCDConv2d(**arguments)
    if layer.weight.device.type != "meta":
        enlarge(layer.branch)
    return layer


def enlarge(branch: DynamicBranch) -> None:
    """Draw the outputs' weights with a standard deviation of 0.5, gain included."""
    for head in branch.heads.values():
        nn.init.normal_(head.weight, std=0.5 / branch.gain)
    if not branch.unit_hidden:
        nn.init.normal_(branch.squeeze.weight, std=0.5)


def prepare(layer: DCDConv2d, draw: Callable[..., Any]) -> None:
    """Give latent norms statistics and weights other than their fresh ones."""
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if name.startswith("norm") and tensor.is_floating_point():
            tensor.data.copy_(draw(tensor.shape).to(tensor) * 0.5 + 1)
