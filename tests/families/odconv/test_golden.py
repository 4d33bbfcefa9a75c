"""The published ODConv layers' stored outputs and gradients, and the names of their tensors."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynaconv.families.odconv.published import published_odconv_state
from tests.families.dcd.test_golden import golden_layer
from tests.helpers import TOLERANCE
from tests.messages import refuses

FILES = sorted((Path(__file__).parents[2] / "golden").glob("odconv_*.safetensors"))


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return published_odconv_state({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})


def test_there_are_three_cases() -> None:
    assert len(FILES) == 3


@pytest.mark.parametrize("algorithm", ["auto", "kernel", "mixed", "grouped"])
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_eval_output(path: Path, algorithm: str) -> None:
    layer, tensors = golden_layer("odconv", path)
    layer.eval().algorithm = algorithm
    torch.testing.assert_close(layer(tensors["input"]), tensors["output_eval"], **TOLERANCE["golden"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("algorithm", ["auto", "kernel", "mixed", "grouped"])
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_train_output_and_gradients(path: Path, algorithm: str, dtype: torch.dtype) -> None:
    layer, tensors = golden_layer("odconv", path)
    layer.to(dtype).algorithm = algorithm
    x = tensors["input"].to(dtype).requires_grad_()
    output = layer(x)
    torch.testing.assert_close(output.float(), tensors["output_train"], **TOLERANCE["golden"])
    output.backward(tensors["grad_output"].to(dtype))
    want = {"input": tensors["grad_input"], **part(tensors, "grad.")}
    got = {"input": x.grad} | {key: parameter.grad for key, parameter in layer.named_parameters()}
    assert set(got) == set(want)
    for key, stored in want.items():
        mine = got[key]
        assert mine is not None, key
        torch.testing.assert_close(
            mine.float(), stored, **TOLERANCE["golden"], msg=lambda text, key=key: f"{key}: {text}"
        )


def test_unknown_names_are_refused() -> None:
    for key in ("attention.fc3.weight", "bias", "bn1.weight"):
        with refuses(ValueError, key):
            published_odconv_state({key: torch.zeros(3)})
