"""Compares native squeeze-and-excitation and smooth activations with torch in float64, in layers and in networks."""

import random

import pytest
import timm
import torch
from torch import nn

from dynaconv import DCDConv2d, ODConv2d, SEConv2d, deploy
from dynaconv.native import NativeProgram
from tests.native.test_layers import check, depthwise_geometry, random_geometry, randomise_heads
from tests.native.test_mixtures import trained

ACTIVATIONS = (nn.SiLU, nn.GELU, nn.Hardswish)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("seed", range(6))
def test_activations(seed: int, activation: type[nn.Module]) -> None:
    """After static, dynamic, depthwise and fused steps; the next dynamic layer reads the mean of the result."""
    draw = random.Random(seed)
    geometry, (batch, height, width) = depthwise_geometry(draw, fast=bool(seed % 2))
    first, second = draw.choice([8, 16, 24, 35]), draw.choice([5, 8, 40])
    layers = (
        nn.Conv2d(3, first, 1),
        activation(),
        nn.Conv2d(first, first, groups=first, **geometry),
        activation(),
        draw.choice([DCDConv2d, ODConv2d])(first, second, 1),
        activation(),
        DCDConv2d(second, 7, 1),
    )
    check(randomise_heads(nn.Sequential(*layers)), torch.randn(batch, 3, height, width))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_large_values(activation: type[nn.Module]) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), activation())
    network[0].weight.data.fill_(1)
    x = torch.tensor([-torch.inf, -1e30, -200, -90, -20, -5, -1e-20, 0, 1e-20, 5, 20, 90, 200, 1e30, torch.nan])
    native = deploy(network.eval(), backend="native")
    with torch.no_grad():
        got, want = native(x.reshape(1, 1, 3, 5)), network(x.reshape(1, 1, 3, 5))
    # 0 times infinity is NaN; the kernels and torch may differ there.
    finite = want.isfinite() | want.isnan() & x.reshape(1, 1, 3, 5).isnan()
    torch.testing.assert_close(got[finite], want[finite], rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("seed", range(10))
def test_squeeze_and_excitation_of_any_convolution(seed: int) -> None:
    draw = random.Random(seed)
    geometry, (batch, height, width) = random_geometry(draw)
    channels = draw.choice([4, 16, 24]), draw.choice([5, 8, 20, 48])
    groups = 1
    if seed % 3 == 0:
        channels, groups = (24, 24), 24
    layer = trained(SEConv2d(*channels, groups=groups, bias=draw.random() < 0.5, **geometry))
    network = nn.Sequential(layer, nn.BatchNorm2d(channels[1]), draw.choice([nn.Identity, nn.ReLU, nn.Hardswish])())
    check(network, torch.randn(batch, channels[0], height, width))


@pytest.mark.parametrize(
    "name",
    ["mobilenetv3_small_050", "efficientnet_lite0", "efficientnet_b0", "seresnet50", "se_resnet10", "efficientnet_es"],
)
def test_networks_with_excitation_are_one_program(name: str) -> None:
    network = timm.create_model(name, num_classes=10).eval()
    for module in network.modules():
        # A branch that reads a layer's output cannot take in a norm whose scale is zero, as it is at first.
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
    assert isinstance(deploy(network, backend="native"), NativeProgram)
    check(network, torch.randn(2, 3, 64, 96))


def test_an_activation_after_pooling_is_not_lost() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(2), nn.ReLU()).eval()
    x = torch.randn(1, 3, 8, 8) - 3
    with torch.no_grad():
        torch.testing.assert_close(deploy(network, backend="native")(x), network(x), rtol=1e-5, atol=1e-5)
