"""Layers and warehouses of the published networks, for timm's module names."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

_RESNET_NAME = re.compile(r"layer(\d)\.(\d+)\.(conv(\d)|downsample\.\d)$")
_MOBILENET_NAME = re.compile(r"blocks\.(\d)\.(\d+)\.conv_(pw|dw|pwl)$")
_LAST_STAGE = 6


def network_options(model: nn.Module, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options of each dynamic layer of a published network, by its name, in the order of the modules.

    Args:
        model: A ResNet or MobileNetV2 of timm with static layers.
        options: Options for every layer; what is not among them is as published for the budget.

    Raises:
        ValueError: an option is one that the network sets.
    """
    for name in ("warehouse", "start"):
        if name in options:
            raise ValueError(f"the registered networks set {name!r} for each layer; leave it out.")
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    if any(name.startswith("blocks.") for name in convolutions):
        return _mobilenet(options, convolutions, getattr(model, "classifier", None))
    return _resnet(options, convolutions)


def _resnet(options: Mapping[str, Any], convolutions: Mapping[str, nn.Conv2d]) -> dict[str, dict[str, Any]]:
    """One warehouse a stage. Layers that read the stage before, in its last width, belong to that stage's warehouse."""
    bottleneck = any(name.endswith(".conv3") for name in convolutions)
    published: dict[str, Any] = {"basis_reduction": 16} if bottleneck and options.get("budget", 1) < 1 else {}
    found = {}
    for name in convolutions:
        match = _RESNET_NAME.match(name)
        if match is None:
            continue
        stage, block = int(match[1]), int(match[2])
        reads_stage_before = block == 0 and match[3] != "conv2" and match[3] != "conv3"
        if reads_stage_before and stage == 1 and bottleneck:
            continue
        if reads_stage_before and stage > 1:
            stage -= 1
        found[name] = {**published, "warehouse": f"stage{stage}", **options}
    return found


def _mobilenet(
    options: Mapping[str, Any], convolutions: Mapping[str, nn.Conv2d], classifier: nn.Module | None
) -> dict[str, dict[str, Any]]:
    """Warehouses for the kinds of convolutions of a stage; a block that opens a stage belongs to the one before."""
    budget = options.get("budget", 1)
    small = budget < 1
    published: dict[str, Any] = {"reduction": 32} if small else {}
    found = {}
    for name in convolutions:
        stage, kind = _place(name)
        if kind == "pw" and small and stage < _LAST_STAGE:
            continue
        own: dict[str, Any] = {}
        if small and kind in ("stem", "dw"):
            own = {"budget": 1}
        if kind == "pw" and (small or budget == 4):
            kind = "expand" if name.endswith(".conv_pw") and not name.startswith("blocks.0.") else "project"
        found[name] = {**published, **options, **own, "warehouse": kind if kind == "stem" else f"stage{stage} {kind}"}
    if small and isinstance(classifier, nn.Linear):
        # 1 / 40 in the published networks; a budget of 1 / q needs a multiple of q blocks.
        run = round(1 / budget)
        divisor = max(d for d in range(run, 41, run) if d == run or classifier.in_features % d == 0)
        found["classifier"] = {**published, **options, "in_divisor": divisor, "out_divisor": 1}
    return found


def _place(name: str) -> tuple[int, str]:
    """Return the stage of a convolution's warehouse, and its kind: ``stem``, ``dw`` or ``pw``."""
    match = _MOBILENET_NAME.match(name)
    if match is None:
        return (0, "stem") if name == "conv_stem" else (_LAST_STAGE, "pw")
    group, block = int(match[1]), int(match[2])
    stage = _LAST_STAGE if group == _LAST_STAGE else group + 1 - (block == 0 and group > 0)
    return stage, "dw" if match[3] == "dw" else "pw"
