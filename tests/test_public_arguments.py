"""Every argument of every public function, given a wrong value, is refused in a sentence or is valid."""

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv import convert
from dynaconv.families import families
from dynaconv.measure.latency import measure_latency
from tests.conversion.published_layers import PublishedDCD

HUGE = 2**40
WRONG = [
    None,
    -1,
    0,
    HUGE,
    1.5,
    math.nan,
    -math.inf,
    True,
    "",
    "no such",
    [],
    {},
    (),
    object(),
    b"x",
    {"x": 1},
    [None],
]
LAYERS = ("CondConv2d", "DCDConv2d", "DYConv2d", "FDConv2d", "KernelWarehouseConv2d", "ODConv2d", "SEConv2d")
# Abstract classes, the cells that layers make, layers of other dimensions, which check arguments by the same code, and
# what has tests of its own: a family, `batched_conv`, and exports, which are slow.
NOT_CALLED = {layer.__name__ for family in families() for layer in family.others} | {
    "DynamicConv",
    "batched_conv",
    "batched_conv_transpose",
    "DynamicConv2d",
    "DynamicLayer",
    "Family",
    "register_family",
    "export_onnx",
    "export_openvino",
    "Warehouse",
}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))


def calls(folder: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """A valid call of every public function."""
    dynamic = convert(network(), "dcd").eval()
    layer = {"in_channels": 4, "out_channels": 8, "kernel_size": 3}
    found: dict[str, dict[str, Any]] = {name: dict(layer) for name in LAYERS}
    found |= {
        "DCDConfig": {},
        "DCDLinear": {"in_features": 4, "out_features": 8},
        "KernelWarehouseLinear": {"in_features": 4, "out_features": 8},
        "SharedContext": {"channels": 4, "features": 3},
        "share_cells": {"layers": [dynaconv.KernelWarehouseConv2d(4, 8, 1)]},
        "apply_conversion": {"model": network(), "record": dynaconv.conversion_of(dynamic)},
        "conversion_of": {"model": dynamic},
        "convert": {"model": network(), "family": "dcd"},
        "deploy": {"model": dynamic},
        "freeze": {"model": dynamic, "names": "0", "data": torch.randn(2, 3, 8, 8)},
        "load_published": {"model": dynamic, "path": dynamic.state_dict()},
        "parameter_groups": {"model": dynamic, "lr": 0.1, "weight_decay": 0.1},
        "plan_conversion": {"model": network(), "family": "dcd"},
        "plan_deployment": {"model": dynamic},
        "profile": {"model": dynamic, "input_size": (3, 8, 8)},
        "published_layer": {"family": "dcd", "state": PublishedDCD(4, 8, style="mobilenet").state_dict()},
        "revert": {"model": dynamic},
        "set_temperature": {"model": dynamic, "value": 1.0},
    }
    return {name: (getattr(dynaconv, name), base) for name, base in found.items()} | {
        "measure_latency": (measure_latency, {"models": {"one": dynamic}, "input_size": (3, 8, 8), "rounds": 1})
    }


CALLS = [
    *LAYERS,
    "DCDConfig",
    "DCDLinear",
    "KernelWarehouseLinear",
    "SharedContext",
    "apply_conversion",
    "conversion_of",
    "convert",
    "deploy",
    "freeze",
]
CALLS += ["load_published", "measure_latency", "parameter_groups", "plan_conversion"]
CALLS += ["plan_deployment", "profile", "published_layer", "revert", "set_temperature", "share_cells"]


def test_every_public_name_is_called(tmp_path: Path) -> None:
    assert calls(tmp_path).keys() == set(CALLS)
    assert NOT_CALLED | {*CALLS} == {*dynaconv.__all__, "measure_latency"}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_refused_or_valid(name: str, tmp_path: Path) -> None:
    function, _ = calls(tmp_path)[name]
    parameters = inspect.signature(function).parameters
    for parameter in (each for each in parameters.values() if each.kind is not each.VAR_KEYWORD):
        # A size beyond any memory and an unknown device are refused by torch, as they are in `torch.nn.Conv2d`.
        of_torch = (RuntimeError,) if "device" in parameters else ()
        for wrong in WRONG:
            _, valid = calls(tmp_path)[name]
            if wrong == HUGE and parameter.name in ("rounds", "warmup"):
                # Valid, but not in the time of a test.
                continue
            if "device" in parameters:
                valid["device"] = "meta"
            if (
                "export" in name
                and parameter.name not in ("model", "path", "example")
                and wrong in (None, True, 1.5, 2**40)
            ):
                # These may be valid, and each valid export takes seconds.
                continue
            try:
                function(**valid | {parameter.name: wrong})
            except (TypeError, ValueError):
                continue
            except of_torch:
                if parameter.name != "device" and wrong != HUGE:
                    raise
