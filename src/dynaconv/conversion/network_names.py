"""Module names of MobileNetV2 and ResNet in checkpoints, mapped to timm's names, which dynaconv's networks use.

A layout is a naming scheme:

- ``torchvision MobileNetV2``: ``features.N.conv.0.0``, head ``features.18``; also in ODConv's networks.
- ``flat MobileNetV2``: ``features.N.conv.3``, where activations have numbers too, head ``conv``; in DCD's networks.
- ``timm MobileNetV2``: ``blocks.S.I.conv_pw``.
- ``ResNet``: ``layer1.0.conv1``, in all libraries.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

_TORCHVISION, _FLAT, _TIMM, RESNET = "torchvision MobileNetV2", "flat MobileNetV2", "timm MobileNetV2", "ResNet"
_MARKER_KEYS = {
    _TORCHVISION: "features.1.conv.0.0.",
    _FLAT: "features.1.conv.0.weight",
    _TIMM: "blocks.0.0.conv_dw.",
    RESNET: "layer1.0.conv1.",
}
_HEADS = {_TORCHVISION: "features.{last}.0", _FLAT: "conv.0", _TIMM: "conv_head"}
_BLOCKS = {
    _TORCHVISION: {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"},
    _FLAT: {"conv_pw": "0", "bn1": "1", "conv_dw": "3", "bn2": "4", "conv_pwl": "6", "bn3": "7"},
}
_UNEXPANDED_BLOCKS = {
    _TORCHVISION: {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"},
    _FLAT: {"conv_dw": "0", "bn1": "1", "conv_pw": "3", "bn2": "4"},
}
_RESNET_CLASSIFIERS = ("fc", "classifier.1", "classifier.0")
_BRANCH_INPUTS = ("attention.fc1.weight", "branch.squeeze.weight")
_MOBILENET_SIZES = {112: "035", 160: "050", 240: "075", 320: "100", 448: "140"}
"""Size in dynaconv's model names, by input channels of the head."""
_RESNET_SIZES = {
    (1, 1, 1, 1): {False: "10"},
    (2, 2, 2, 2): {False: "18"},
    (3, 4, 6, 3): {False: "34", True: "50"},
    (3, 4, 23, 3): {True: "101"},
}
"""Size in dynaconv's model names, by blocks per stage and by whether they are bottlenecks."""


def find_layout(keys: Iterable[str]) -> str | None:
    """Return the layout of a network's state dict; None for another network."""
    keys = list(keys)
    found = (layout for layout, mark in _MARKER_KEYS.items() if any(key.startswith(mark) for key in keys))
    return next(found, None)


def network_of(layout: str | None) -> str | None:
    """Return the network of a layout: ``MobileNetV2``, ``ResNet`` or None."""
    return None if layout is None else layout.split()[-1]


def size_name(layout: str | None, state: Mapping[str, Tensor]) -> str | None:
    """Return network and size as in dynaconv's model names, such as ``mobilenetv2_050``; None if unknown."""
    if layout is None:
        return None
    if layout != RESNET:
        last = max((int(match[1]) for key in state if (match := re.match(r"features\.(\d+)\.", key))), default=0)
        head = _HEADS[layout].format(last=last)
        weight = next(
            (t for key, t in state.items() if re.fullmatch(re.escape(head) + r"(\.conv)?\.weight", key)), None
        )
        channels = None if weight is None or weight.dim() < 4 else weight.shape[-3]
        # Layers of KernelWarehouse have no weight, but a branch that reads the channels.
        reads = next((state[key] for ending in _BRANCH_INPUTS if (key := f"{head}.{ending}") in state), None)
        if channels is None and reads is not None:
            channels = reads.shape[-1]
        size = None if channels is None else _MOBILENET_SIZES.get(channels)
        return size and f"mobilenetv2_{size}"
    found = {match.groups() for key in state if (match := re.match(r"layer(\d)\.(\d+)\.", key))}
    depths = tuple(sum(stage == wanted for stage, _ in found) for wanted in "1234")
    deep = any(key.startswith("layer1.0.conv3.") for key in state)
    size = _RESNET_SIZES.get(depths, {}).get(deep)
    return size and f"resnet{size}"


def module_namer(
    model_keys: Iterable[str], model_layout: str | None, layout: str | None
) -> Callable[[str], tuple[str, ...]]:
    """Return a function from a module's name in the model to its possible names in a file, the likeliest first.

    Args:
        model_keys: Keys of the model's state dict.
        model_layout: Layout of the model.
        layout: Layout of the file.
    """
    if model_layout != _TIMM or layout not in _BLOCKS:
        return lambda name: _RESNET_CLASSIFIERS if (layout, name) == (RESNET, "fc") else (name,)
    keys = list(model_keys)
    blocks = list(dict.fromkeys(m[0] for key in keys if (m := re.match(r"blocks\.\d+\.\d+", key))))
    names = {
        "conv_stem": ("features.0.0",),
        "bn1": ("features.0.1",),
        "classifier": ("classifier.1", "classifier.0", "classifier"),
    }
    head = _HEADS[layout].format(last=len(blocks) + 1).removesuffix(".0")
    names |= {"conv_head": (f"{head}.0",), "bn2": (f"{head}.1",)}
    for number, block in enumerate(blocks, start=1):
        expands = any(key.startswith(f"{block}.conv_pwl.") for key in keys)
        parts = (_BLOCKS if expands else _UNEXPANDED_BLOCKS)[layout]
        names |= {
            f"{block}.{timm_name}": (f"features.{number}.conv.{file_name}",) for timm_name, file_name in parts.items()
        }
    return lambda name: names.get(name, (name,))
