"""Names of DCD layers' tensors in checkpoints of the published code."""

from torch import nn

from dynaconv.families.dcd.layer import DCDLinear
from dynaconv.families.dcd.published import DCD_STEMS

_STATIC_STEMS = ("conv", "cls")


def is_published_dcd(keys: list[str]) -> bool:
    """Whether a state dict holds DCD layers under the names of the published code."""
    return any(key.endswith(".fc_phi.weight") for key in keys)


def published_dcd_name(layer: nn.Module, key: str, *, mobilenet: bool) -> str:
    """Return the published name of a DCD layer's tensor, such as ``fc_phi.weight`` for ``branch.heads.fusion.weight``.

    Args:
        layer: The layer, a convolution or the classifier.
        key: Key of the tensor in the layer.
        mobilenet: Whether the network is a MobileNetV2, whose published code names Q and P differently than ResNet's.
    """
    classifier = isinstance(layer, DCDLinear)
    if key in ("p", "q"):
        return f"cls_{key}.weight" if classifier else f"conv_{key}.weight" if mobilenet else f"{key}.weight"
    for stem, prefix in DCD_STEMS.items():
        if stem not in _STATIC_STEMS and key.startswith(prefix):
            return f"{stem}.{key.removeprefix(prefix)}"
    return f"cls.{key}" if classifier else f"conv.{key}"
