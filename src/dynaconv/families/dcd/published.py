"""Sizes and state-dict keys of the DCD layers in the published code."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from dynaconv.families.contract.checks import check_choice
from dynaconv.families.contract.published import GEOMETRY, check_hidden, not_shown
from dynaconv.families.dcd.layer import DCDConv2d, DCDLinear

PublishedStyle = Literal["basic", "bottleneck", "mobilenet", "classifier"]

DCD_STEMS = {
    "conv": "",
    "cls": "",
    "fc.0": "branch.squeeze.",
    "fc.1.fc.0": "branch.gate.",
    "fc_phi": "branch.heads.fusion.",
    "fc_scale": "branch.heads.scale.",
    "bn1": "norm1.",
    "bn2": "norm2.",
}
"""Maps the published name of a layer's part to the prefix of our keys."""
_Q_KEYS = ("q", "conv_q", "cls_q")
_P_KEYS = ("p", "conv_p", "cls_p")


def published_dcd_name(layer: nn.Module, key: str, network: str | None) -> str:
    """Return the published name of a DCD layer's tensor, such as ``fc_phi.weight`` for ``branch.heads.fusion.weight``.

    Args:
        layer: The layer, a convolution or the classifier.
        key: Key of the tensor in the layer.
        network: The network; the published code of MobileNetV2 names Q and P differently than that of ResNet.
    """
    classifier = isinstance(layer, DCDLinear)
    if key in ("p", "q"):
        return f"cls_{key}.weight" if classifier else f"{'conv_' * (network == 'MobileNetV2')}{key}.weight"
    for stem, prefix in DCD_STEMS.items():
        if prefix and key.startswith(prefix):
            return f"{stem}.{key.removeprefix(prefix)}"
    return f"cls.{key}" if classifier else f"conv.{key}"


def published_dcd_options(
    style: PublishedStyle, in_channels: int, out_channels: int, *, fc_squeeze: int = 16
) -> dict[str, Any]:
    """Return options of `DCDConv2d` (style ``classifier``: of `DCDLinear`) for the published layer's sizes.

    Args:
        style: ``basic`` (ResNet-18 and -34, 2x2 context), ``bottleneck`` (ResNet-50 and up, 1x1 context),
            ``mobilenet`` (2x2 context where channels grow), ``classifier``.
        in_channels, out_channels: Channels of the convolution.
        fc_squeeze: Divisor that determines the number of hidden units in the ``mobilenet`` style.
    """
    check_choice("style", style, ("basic", "bottleneck", "mobilenet", "classifier"))
    if style == "classifier":
        return {"norm": "batch", "latent_dim": 32, "hidden_channels": 32}
    if style == "mobilenet":
        cells, latent = _mobilenet_sizes(in_channels, out_channels)
        hidden = max(max(cells * in_channels, latent * latent) // fc_squeeze, 4)
    else:
        cells = 4 if style == "basic" else 1
        latent = math.isqrt(cells * in_channels)
        hidden = max(cells * in_channels, latent * latent) // 16
        hidden = max(hidden, 4) if style == "basic" else hidden
    return {"norm": "batch", "latent_dim": latent, "hidden_channels": hidden, "context_size": math.isqrt(cells)}


def _mobilenet_sizes(in_channels: int, out_channels: int) -> tuple[int, int]:
    cells, reduction = (4, 8) if in_channels < out_channels else (1, 2)
    while True:
        latent = min(cells * in_channels // reduction, out_channels // reduction)
        if latent * latent <= 2 * cells * in_channels:
            return cells, max(latent, 4)
        reduction *= 2


def published_layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state of one published DCD layer to our keys, and P and Q to our shapes.

    Args:
        state: Tensors of one layer under the published names, such as ``fc_phi.weight`` or ``bn1.running_mean``.

    Raises:
        ValueError: a key does not belong to a published DCD layer.
    """
    renamed = {}
    for key, tensor in state.items():
        stem, _, leaf = key.rpartition(".")
        if stem in _Q_KEYS:
            renamed["q"] = tensor.flatten(1).T.contiguous()
        elif stem in _P_KEYS:
            renamed["p"] = tensor.flatten(1)
        elif stem in DCD_STEMS:
            renamed[DCD_STEMS[stem] + leaf] = tensor
        else:
            known = ", ".join((*DCD_STEMS, *_Q_KEYS, *_P_KEYS))
            raise ValueError(f"{key!r} is not a key of a published DCD layer; its parts are {known}.")
    return renamed


def published_dcd_layer(state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> DCDConv2d | DCDLinear:
    """Return the DCD layer with the state of a published one; see `dynaconv.published_layer`.

    The published layer has the key ``cls.weight`` if it is a classifier, else ``conv.weight``.
    """
    ours = published_layer_state(state)
    weight, squeeze = ours["weight"], ours["branch.squeeze.weight"]
    out_features, per_group = weight.shape[:2]
    hidden, latent = squeeze.shape[0], ours["q"].shape[1]
    options: dict[str, Any] = {"norm": "batch", "latent_dim": latent, "hidden_channels": hidden}
    options |= {"bias": "bias" in ours, "device": weight.device, "dtype": weight.dtype}
    layer: DCDConv2d | DCDLinear
    if weight.dim() == 2:
        not_shown(metadata, {"in_features": per_group, "out_features": out_features}, ())
        layer = DCDLinear(per_group, out_features, **options)
    else:
        in_channels = ours["q"].shape[0]
        options["context_size"] = math.isqrt(squeeze.shape[1] // in_channels)
        shown: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_features}
        shown |= {"kernel_size": tuple(weight.shape[2:]), "groups": in_channels // per_group}
        given: dict[str, Any] = not_shown(metadata, shown, (*GEOMETRY, "fc_squeeze"))
        if (squeeze_by := given.pop("fc_squeeze", None)) is not None:
            sizes = published_dcd_options("mobilenet", in_channels, out_features, fc_squeeze=squeeze_by)
            check_hidden("fc_squeeze", squeeze_by, sizes["hidden_channels"], hidden)
        layer = DCDConv2d(**shown, **given, **options)
    layer.load_state_dict(ours)
    return layer
