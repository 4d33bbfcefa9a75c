"""What is particular to a convolution with squeeze-and-excitation."""

from typing import Any

import pytest
import torch
from timm.layers import SEModule
from torch import nn

from dynaconv.families import SEConv2d
from dynaconv.ops import cheapest
from tests.helpers import LAYERS, TOLERANCE, count, value_and_gradients
from tests.messages import refuses, spelled

CASES: dict[str, dict[str, Any]] = {
    "pointwise": {"kernel_size": 1},
    "spatial": {"kernel_size": 3, "padding": 1, "stride": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 16, "bias": False},
    "dilated-reflect": {"kernel_size": (3, 5), "padding": 2, "dilation": (1, 2), "padding_mode": "reflect"},
}


@pytest.mark.parametrize("algorithm", ["kernel", "factored", "auto"])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_conv2d_followed_by_timms_module(name: str, algorithm: str) -> None:
    arguments = CASES[name]
    static = nn.Conv2d(16, 32, **arguments)
    excite = SEModule(32, rd_channels=8)
    layer = SEConv2d(16, 32, **arguments, algorithm=algorithm)
    layer.weight.data.copy_(static.weight.data)
    if static.bias is not None:
        assert layer.bias is not None
        layer.bias.data.copy_(static.bias.data)
    maps = {layer.branch.squeeze: excite.fc1, layer.branch.heads["scale"]: excite.fc2}
    for mine, theirs in maps.items():
        mine.weight.data.copy_(theirs.weight.data.flatten(1))  # type: ignore[union-attr]
        mine.bias.data.copy_(theirs.bias.data)  # type: ignore[union-attr]
    x = torch.randn(3, 16, 9, 7, requires_grad=True)
    want = value_and_gradients(excite(static(x)), [x, static.weight, excite.fc1.weight, excite.fc2.bias])
    first, last = layer.branch.squeeze.weight, layer.branch.heads["scale"].bias
    got = value_and_gradients(layer(x), [x, layer.weight, first, last])  # type: ignore[list-item]
    torch.testing.assert_close(got, (*want[:3], want[3].flatten(1), want[4]), **TOLERANCE["float32"])


def test_registered_under_its_stem() -> None:
    assert LAYERS["se"] is SEConv2d


@pytest.mark.parametrize(("reduction", "least", "hidden"), [(16, 8, 8), (4, 8, 12), (1, 8, 48), (16, 1, 3)])
def test_width_of_the_branch_is_that_of_the_output(reduction: int, least: int, hidden: int) -> None:
    layer = SEConv2d(5, 48, 1, reduction=reduction, min_hidden_channels=least)
    assert layer.branch.squeeze.out_features == hidden
    assert f"hidden_channels={hidden}" in repr(layer)
    assert count(layer) == 5 * 48 + 48 + (2 * 48 * hidden + hidden + 48)


def test_scale_depends_on_the_output_not_on_the_input() -> None:
    layer = SEConv2d(4, 6, 1, bias=False)
    x = torch.randn(2, 4, 5, 5)
    moved = x + torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=True).Vh[-1][:, None, None]
    assert not torch.allclose(layer.coefficients(moved).scale, layer.coefficients(x).scale)
    # A direction that no output sees leaves the scales alone.
    blind = SEConv2d(4, 2, 1, bias=False)
    unseen = torch.linalg.svd(blind.weight.detach().flatten(1), full_matrices=True).Vh[-1]
    torch.testing.assert_close(blind.coefficients(x + unseen[:, None, None]), blind.coefficients(x))


def test_neutral_start_doubles_the_weights_and_keeps_the_function() -> None:
    conv = nn.Conv2d(6, 10, 3, padding=1)
    layer = SEConv2d.from_conv(conv)
    x = torch.randn(2, 6, 7, 5)
    assert conv.bias is not None
    assert layer.bias is not None
    assert torch.equal(layer.weight, 2 * conv.weight)
    assert torch.equal(layer.bias, 2 * conv.bias)
    assert torch.equal(layer.coefficients(x).scale, torch.full((2, 10), 0.5))
    assert torch.equal(layer(x), conv(x))


def test_static_state_loads_as_neutral_kernel() -> None:
    conv, layer = nn.Conv2d(6, 10, 3), SEConv2d(6, 10, 3)
    branch = {key: value.clone() for key, value in layer.branch.state_dict().items()}
    result = layer.load_state_dict(conv.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert torch.equal(layer.weight, 2 * conv.weight)
    assert all(torch.equal(layer.branch.state_dict()[key], value) for key, value in branch.items())
    # The layer's own state is no static layer's.
    again = SEConv2d(6, 10, 3)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.weight, layer.weight)


@pytest.mark.parametrize("shape", [(1, 6, 7, 7), (64, 6, 3, 3), (2, 6, 56, 56)])
def test_auto_scales_the_output(shape: tuple[int, int, int, int]) -> None:
    for kernel_size in (1, 3):
        layer = SEConv2d(6, 10, kernel_size)
        costs = layer.algorithm_costs(shape)
        assert set(costs) == set(layer.algorithms)
        assert cheapest(costs) == "factored"


def test_published_macs_are_convolution_and_linear_maps() -> None:
    layer = SEConv2d(16, 64, 3, stride=2, padding=1, groups=2)
    assert layer.published_macs((5, 16, 9, 7)) == 5 * (5 * 4 * 64 * 8 * 9 + 2 * 64 * 8)


@pytest.mark.parametrize(
    "arguments",
    [
        {"reduction": 0.25},
        {"min_hidden_channels": 0},
        {"algorithm": "mixed"},
    ],
    ids=spelled,
)
def test_wrong_arguments_are_explained(arguments: dict[str, Any]) -> None:
    with refuses(ValueError, next(iter(arguments))):
        SEConv2d(6, 10, 3, **arguments)
