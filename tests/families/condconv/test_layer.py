"""What is particular to CondConv: independent weights, one linear routing map, agreement with timm's layer."""

from typing import Any

import pytest
import timm.layers
import torch
from torch import nn

from dynaconv.families import CondConv2d
from tests.helpers import TOLERANCE, count, value_and_gradients

CASES: dict[str, dict[str, Any]] = {
    "pointwise": {"kernel_size": 1, "padding": 0},
    "pointwise-stride": {"kernel_size": 1, "padding": 0, "stride": 2, "bias": True},
    "spatial": {"kernel_size": 3, "padding": 1, "bias": True},
    "spatial-stride": {"kernel_size": 3, "padding": 1, "stride": 2, "dilation": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 4, "bias": True},
    "depthwise": {"kernel_size": 5, "padding": 2, "groups": 8, "stride": 2},
}


@pytest.mark.parametrize("algorithm", ["kernel", "mixed", "grouped"])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_timm(name: str, algorithm: Any) -> None:
    arguments = {"bias": False, **CASES[name]}
    layer = CondConv2d(8, 16, **arguments, num_experts=3, algorithm=algorithm)
    theirs = timm.layers.CondConv2d(8, 16, **arguments, num_experts=3)
    theirs.weight.data.copy_(layer.weight.data.flatten(1))
    if layer.bias is not None:
        theirs.bias.data.copy_(layer.bias.data)
    x = torch.randn(3, 8, 9, 7, requires_grad=True)
    routing = layer.coefficients(x).attention
    assert routing.std() > 0.01
    bias = [] if layer.bias is None else [layer.bias]
    inputs = [x, layer.branch.weight, layer.branch.bias, layer.weight, *bias]
    got = value_and_gradients(layer(x), inputs)
    bias = [] if layer.bias is None else [theirs.bias]
    want = value_and_gradients(theirs(x, routing), [x, layer.branch.weight, layer.branch.bias, theirs.weight, *bias])
    got = (*got[:4], got[4].flatten(1), *got[5:])
    torch.testing.assert_close(got, want, **TOLERANCE["float32 twin"])


def test_parameters_are_the_experts_and_one_linear_map() -> None:
    layer = CondConv2d(6, 10, 3, groups=2)
    assert layer.num_kernels == 8
    assert layer.weight.shape == (8, 10, 3, 3, 3)
    assert count(layer) == 8 * (10 * 3 * 9 + 10) + 8 * (6 + 1)


def test_weights_are_independent_sigmoids_of_a_linear_map() -> None:
    layer, x = CondConv2d(6, 10, 3, num_experts=4, dtype=torch.float64), torch.randn(5, 6, 7, 4, dtype=torch.float64)
    logits = x.mean((2, 3)) @ layer.branch.weight.T + layer.branch.bias
    torch.testing.assert_close(layer.logits(x), logits, **TOLERANCE["float64"])
    torch.testing.assert_close(layer.coefficients(x).attention, 1 / (1 + torch.exp(-logits)), **TOLERANCE["float64"])
    nn.init.zeros_(layer.branch.weight)
    layer.branch.bias.data = torch.tensor([30.0, -30.0, 30.0, 0.0], dtype=torch.float64)
    want = torch.tensor([1.0, 0.0, 1.0, 0.5], dtype=torch.float64).expand(5, 4)
    torch.testing.assert_close(layer.coefficients(x).attention, want, **TOLERANCE["float64"])


@pytest.mark.parametrize("num_experts", [1, 2, 8])
def test_mean_of_the_experts_is_the_kernel_over_half_their_number(num_experts: int) -> None:
    conv = nn.Conv2d(6, 10, 3, dtype=torch.float64)
    layer = CondConv2d.from_conv(conv, num_experts=num_experts)
    assert conv.bias is not None
    assert layer.bias is not None
    torch.testing.assert_close(layer.weight.mean(0) * num_experts / 2, conv.weight, **TOLERANCE["float64"])
    torch.testing.assert_close(layer.bias.mean(0) * num_experts / 2, conv.bias, **TOLERANCE["float64"])
