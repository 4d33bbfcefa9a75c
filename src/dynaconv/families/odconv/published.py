"""Key names of the ODConv layers in the published code, as its checkpoints hold them."""

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
"""Published names of a layer's parts to what our keys start with; the kernels, ``weight``, have no stem."""


def published_odconv_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename one published ODConv layer's tensors to the keys, and reshape its linear maps to the shapes, of ours.

    The temperature is no part of the published state: it ends training at 1, which is our layer's default.

    Args:
        state: Tensors of one layer under the published names, such as ``attention.fc.weight``, whose linear maps are
            1x1 convolutions.

    Raises:
        ValueError: a key is no part of a published ODConv layer.
    """
    renamed = {}
    for key, tensor in state.items():
        stem, _, leaf = key.rpartition(".")
        if stem not in ODCONV_STEMS or (not stem and leaf != "weight"):
            known = ", ".join(("weight", *(name for name in ODCONV_STEMS if name)))
            raise ValueError(f"{key!r} is no key of a published ODConv layer; its parts are {known}.")
        renamed[ODCONV_STEMS[stem] + leaf] = tensor.flatten(1) if stem and tensor.dim() == 4 else tensor
    return renamed
