"""State-dict keys of the ODConv layers in the published code, and single layers with such a state."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dynaconv.families.contract.published import GEOMETRY, check_hidden, not_shown
from dynaconv.families.odconv.layer import ODConv2d

ODCONV_STEMS = {
    "": "",
    "attention.fc": "branch.squeeze.",
    "attention.bn": "branch.norm.",
    "attention.channel_fc": "branch.heads.channel.",
    "attention.filter_fc": "branch.heads.filter.",
    "attention.spatial_fc": "branch.heads.spatial.",
    "attention.kernel_fc": "branch.heads.kernel.",
}
"""Maps the published name of a layer's part to the prefix of our keys; the kernels, ``weight``, have no prefix."""


def published_odconv_name(key: str) -> str:
    """Return the published name of an ODConv layer's tensor, such as ``attention.fc.weight``."""
    for stem, prefix in ODCONV_STEMS.items():
        if prefix and key.startswith(prefix):
            return f"{stem}.{key.removeprefix(prefix)}"
    return key


def published_odconv_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state of one published ODConv layer to our keys, and its linear maps to our shapes.

    The published state has no temperature. Training ends at temperature 1, the default of our layer.

    Args:
        state: Tensors of one layer under the published names, such as ``attention.fc.weight``, whose linear maps are
            1x1 convolutions.

    Raises:
        ValueError: a key does not belong to a published ODConv layer.
    """
    renamed = {}
    for key, tensor in state.items():
        stem, _, leaf = key.rpartition(".")
        if stem not in ODCONV_STEMS or (not stem and leaf != "weight"):
            known = ", ".join(("weight", *(name for name in ODCONV_STEMS if name)))
            raise ValueError(f"{key!r} is not a key of a published ODConv layer; its parts are {known}.")
        renamed[ODCONV_STEMS[stem] + leaf] = tensor.flatten(1) if stem and tensor.dim() == 4 else tensor
    return renamed


def published_odconv_layer(state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> ODConv2d:
    """Return the ODConv layer with the state of a published one; see `dynaconv.published_layer`."""
    ours = published_odconv_state(state)
    weight, squeeze = ours["weight"], ours["branch.squeeze.weight"]
    hidden, in_channels = squeeze.shape
    shown: dict[str, Any] = {"in_channels": in_channels, "out_channels": weight.shape[1]}
    shown |= {"kernel_size": tuple(weight.shape[3:]), "groups": in_channels // weight.shape[2]}
    options: dict[str, Any] = not_shown(
        metadata, shown | {"kernel_num": weight.shape[0]}, (*GEOMETRY, "temperature", "reduction")
    )
    if (ratio := options.pop("reduction", None)) is not None:
        check_hidden("reduction", ratio, max(int(in_channels * ratio), 16), hidden)
    if hidden != max(in_channels // 16, 16):
        options |= {"reduction": in_channels, "min_hidden_channels": hidden}
    options |= {"num_kernels": weight.shape[0], "bias": False, "device": weight.device, "dtype": weight.dtype}
    layer = ODConv2d(**shown, **options)
    layer.load_state_dict({"temperature": layer.temperature, **ours})
    return layer
