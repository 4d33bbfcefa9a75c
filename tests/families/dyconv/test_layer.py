"""What is particular to DY-Conv: a softmax with temperature, and its branch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv.families import DYConv2d, set_temperature
from tests.helpers import TOLERANCE, count


def entropy(attention: Tensor) -> Tensor:
    """Entropy of each sample's attention as a fraction of its maximum, log K."""
    return torch.special.entr(attention).sum(1) / torch.log(torch.tensor(attention.shape[1]))


def lively(**options: Any) -> tuple[DYConv2d, Tensor]:
    """A layer whose logits differ by several units, and an input."""
    layer, x = DYConv2d(6, 10, 3, **options), torch.randn(5, 6, 7, 4)
    nn.init.normal_(layer.branch.heads["attention"].bias, std=3.0)  # type: ignore[arg-type]
    nn.init.normal_(layer.branch.heads["attention"].weight, std=3.0)  # type: ignore[arg-type]
    return layer, x


@pytest.mark.parametrize("temperature", [0.1, 1.0, 30.0])
def test_attention_is_the_softmax_of_logits_over_temperature(temperature: float) -> None:
    layer, x = lively(temperature=temperature)
    exponentials = torch.exp(layer.logits(x) / temperature)
    want = exponentials / exponentials.sum(1, keepdim=True)
    torch.testing.assert_close(layer.coefficients(x).attention, want, **TOLERANCE["float32"])


def test_temperature_decides_between_even_and_one_hot() -> None:
    layer, x = lively()
    shares = []
    for temperature in (0.01, 1.0, 30.0, 3000.0):
        set_temperature(layer, temperature)
        shares.append(entropy(layer.coefficients(x).attention))
    sharp, plain, warm, hot = shares
    assert (sharp < plain).all()
    assert (plain < warm).all()
    assert (warm > 0.98).all()
    assert (hot > 0.99999).all()
    set_temperature(layer, 1e-4)
    attention, best = layer.coefficients(x).attention, layer.logits(x).argmax(1)
    torch.testing.assert_close(attention, nn.functional.one_hot(best, 4).float(), **TOLERANCE["float32"])


def test_logits_do_not_depend_on_temperature() -> None:
    layer, x = lively()
    cold = layer.logits(x)
    set_temperature(layer, 30)
    assert torch.equal(layer.logits(x), cold)


@pytest.mark.parametrize("temperature", [0.1, 30.0])
def test_neutral_start_holds_at_every_temperature(temperature: float) -> None:
    conv, x = nn.Conv2d(6, 10, 3, dtype=torch.float64), torch.randn(2, 6, 7, 5, dtype=torch.float64)
    layer = DYConv2d.from_conv(conv, temperature=temperature)
    torch.testing.assert_close(layer.weight.mean(0), conv.weight, **TOLERANCE["float64"])
    torch.testing.assert_close(layer(x), conv(x), **TOLERANCE["float64"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_attention_in_a_layer_of_another_type(dtype: torch.dtype) -> None:
    layer, x = lively(temperature=4.0)
    want = layer.coefficients(x).attention
    attention = layer.to(dtype).coefficients(x.to(dtype)).attention
    assert attention.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = "float32" if dtype == torch.float64 else str(dtype).removeprefix("torch.")
    torch.testing.assert_close(attention.float(), want, **TOLERANCE[tolerance])


@pytest.mark.parametrize(
    ("options", "hidden"), [({}, 12), ({"reduction": 16}, 4), ({"reduction": 16, "min_hidden_channels": 1}, 3)]
)
def test_parameters_are_the_kernels_and_the_branch(options: dict[str, int], hidden: int) -> None:
    layer = DYConv2d(48, 10, 3, num_kernels=3, **options)
    assert layer.branch.squeeze.out_features == hidden
    assert f"hidden_channels={hidden}" in repr(layer)
    assert count(layer) == 3 * (48 * 10 * 9 + 10) + 48 * hidden + (hidden + 1) * 3
