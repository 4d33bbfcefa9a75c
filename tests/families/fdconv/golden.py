"""The stored cases of the published FDConv layers."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from dynaconv.families import FDConv2d
from dynaconv.families.fdconv.published import published_fdconv_options, published_fdconv_state

FILES = sorted((Path(__file__).parents[2] / "golden").glob("fdconv_*.safetensors"))
_OF_CONV2D = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "bias")


def load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The published constructor's arguments and the tensors of a case."""
    with safe_open(path, framework="pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items() if key != "kind"}
        return metadata, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors with this prefix, under our keys."""
    return published_fdconv_state({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})


def arguments(metadata: dict[str, Any]) -> dict[str, Any]:
    """The arguments of our constructor."""
    of_conv = {key: value for key, value in metadata.items() if key in _OF_CONV2D}
    return of_conv | published_fdconv_options(metadata, metadata["out_channels"])


def build(metadata: dict[str, Any], tensors: dict[str, Tensor], **options: Any) -> FDConv2d:
    """The layer of a case, with its weights."""
    layer = FDConv2d(**arguments(metadata), **options)
    missing, unexpected = layer.load_state_dict(part(tensors, "state."), strict=False)
    assert (missing, unexpected) == (["frequency_group"], [])
    return layer


def published_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a case under its published keys."""
    return {key.removeprefix("state."): tensor for key, tensor in tensors.items() if key.startswith("state.")}
