"""The published layers' stored outputs and gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from dynaconv import published_layer
from dynaconv.families import DCDConv2d, DCDLinear
from dynaconv.families.dcd.published import published_layer_state
from tests.helpers import TOLERANCE

FILES = sorted((Path(__file__).parents[2] / "golden").glob("dcd_*.safetensors"))

ILL_CONDITIONED = {("dcd_classifier", "q"), ("dcd_classifier", "branch.squeeze.weight")}


def load(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict


def golden_layer(family: str, path: Path) -> tuple[Any, dict[str, Tensor]]:
    """The layer with the weights of a golden file, and the file's tensors."""
    metadata, tensors = load(path)
    state = {key.removeprefix("state."): tensor for key, tensor in tensors.items() if key.startswith("state.")}
    return published_layer(family, state, **metadata), tensors


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return published_layer_state({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})


def test_there_are_seven_cases() -> None:
    assert len(FILES) == 7


@pytest.mark.parametrize("algorithm", ["auto", "kernel", "factored"])
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_eval_output(path: Path, algorithm: str) -> None:
    layer, tensors = golden_layer("dcd", path)
    layer.eval().algorithm = algorithm
    torch.testing.assert_close(layer(tensors["input"]), tensors["output_eval"], **TOLERANCE["golden"])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_train_output_and_gradients(path: Path) -> None:
    layer, tensors = golden_layer("dcd", path)
    assert layer.training
    output, got = run(layer, tensors, torch.float32)
    torch.testing.assert_close(output, tensors["output_train"], **TOLERANCE["golden"])
    want = {"input": tensors["grad_input"], **part(tensors, "grad.")}
    assert set(got) == set(want)
    exact = run(layer, tensors, torch.float64)[1]
    for key, stored in want.items():
        tolerance = TOLERANCE["golden ill-conditioned" if (path.stem, key) in ILL_CONDITIONED else "golden"]
        for mine in (got[key], exact[key].float()):
            torch.testing.assert_close(mine, stored, **tolerance, msg=lambda text, key=key: f"{key}: {text}")


def run(
    layer: DCDConv2d | DCDLinear, tensors: dict[str, Tensor], dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    """Train-mode output and the gradients of the input and each parameter, in a type."""
    layer.to(dtype).zero_grad()
    x = tensors["input"].to(dtype).clone().requires_grad_()
    output = layer(x)
    output.backward(tensors["grad_output"].to(dtype))
    gradients = {key: p.grad for key, p in layer.named_parameters()} | {"input": x.grad}
    return output.detach(), {key: g.clone() for key, g in gradients.items() if g is not None}
