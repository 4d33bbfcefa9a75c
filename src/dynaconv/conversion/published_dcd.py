"""Names of our DCD layers' tensors in the published code's checkpoints."""

from torch import nn

from dynaconv.families.dcd.layer import DCDLinear
from dynaconv.families.dcd.published import DCD_STEMS

_STATIC_STEMS = ("conv", "cls")


def is_published_dcd(keys: list[str]) -> bool:
    """Whether a state dict holds DCD layers as the published code names them."""
    return any(key.endswith(".fc_phi.weight") for key in keys)


def published_dcd_name(layer: nn.Module, key: str, *, mobilenet: bool) -> str:
    """The published name of one tensor of a DCD layer, such as ``fc_phi.weight`` for ``branch.heads.fusion.weight``.

    Args:
        layer: The layer, a convolution or the classifier.
        key: The tensor's key in the layer.
        mobilenet: Whether the network is a MobileNetV2, whose code has other names for Q and P than ResNet's.
    """
    classifier = isinstance(layer, DCDLinear)
    if key in ("p", "q"):
        return f"cls_{key}.weight" if classifier else f"conv_{key}.weight" if mobilenet else f"{key}.weight"
    for stem, ours in DCD_STEMS.items():
        if stem not in _STATIC_STEMS and key.startswith(ours):
            return f"{stem}.{key.removeprefix(ours)}"
    return f"cls.{key}" if classifier else f"conv.{key}"
