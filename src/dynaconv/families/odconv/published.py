"""Conversion of state-dict keys of the ODConv layers in the published code."""

from collections.abc import Mapping

from torch import Tensor

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
