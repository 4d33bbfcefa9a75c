"""Compares native mixtures of kernels with the layer in float64, over random geometries and options."""

import random

import pytest
import timm
import torch
from torch import nn

from dynaconv import CondConv2d, DYConv2d, ODConv2d, SEConv2d, deploy
from dynaconv.families.contract.branch import BranchLinear
from dynaconv.native import NativeProgram
from tests.native.programs import check_threads
from tests.native.test_layers import check, depthwise_geometry, random_geometry

FAMILIES = {"condconv": CondConv2d, "dyconv": DYConv2d, "odconv": ODConv2d}


def trained(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    """Give branches random weights and batch norms random statistics. A network magnifies rounding at a large gain."""
    for module in layer.modules():
        if isinstance(module, BranchLinear):
            nn.init.normal_(module.weight, std=gain * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=gain)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return layer.eval()


def random_layer(draw: random.Random, family: str, channels: tuple[int, int], groups: int, **geometry) -> nn.Module:
    options = {"bias": draw.random() < 0.5, "context_norm": draw.choice([None, "layer", "running"])}
    count = draw.choice([1, 2, 4, 5]) if family == "odconv" else draw.choice([1, 2, 3, 8])
    options["num_experts" if family == "condconv" else "num_kernels"] = count
    if family != "odconv":
        options["residual"] = draw.random() < 0.3
    return trained(FAMILIES[family](*channels, groups=groups, **geometry, **options))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(10))
def test_dense_mixtures(seed: int, family: str) -> None:
    draw = random.Random(seed)
    geometry, (batch, height, width) = random_geometry(draw)
    if seed % 2:
        geometry = {"kernel_size": 1}
    channels = draw.choice([4, 16, 24, 35]), draw.choice([5, 8, 20, 48])
    layer = random_layer(draw, family, channels, 1, **geometry)
    check(nn.Sequential(layer, nn.ReLU()), torch.randn(batch, channels[0], height, width))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(8))
def test_grouped_mixtures(seed: int, family: str) -> None:
    draw = random.Random(seed)
    geometry, (batch, height, width) = random_geometry(draw)
    groups = draw.choice([2, 3, 4])
    channels = groups * draw.choice([2, 8, 16, 20]), groups * draw.choice([1, 3, 8, 24])
    layer = random_layer(draw, family, channels, groups, **geometry)
    network = nn.Sequential(nn.Conv2d(3, channels[0], 1), layer, nn.ReLU())
    check(network, torch.randn(batch, 3, height, width))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(8))
def test_depthwise_mixtures(seed: int, family: str) -> None:
    draw = random.Random(seed)
    geometry, (batch, height, width) = depthwise_geometry(draw, fast=bool(seed % 2))
    channels = draw.choice([2, 8, 16, 24, 35])
    layer = random_layer(draw, family, (channels, channels), channels, **geometry)
    # With a static step before it, and one after it, which reads its mean.
    network = nn.Sequential(nn.Conv2d(3, channels, 1), layer, nn.ReLU6(), nn.Conv2d(channels, 4, 1))
    check(network, torch.randn(batch, 3, height, width))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels", [(24, 40), (40, 200)])
def test_a_mixture_fused_with_the_depthwise_step_after_it(channels: tuple[int, int], family: str) -> None:
    draw = random.Random(sum(channels))
    layers = (
        nn.Conv2d(3, channels[0], 1),
        random_layer(draw, family, channels, 1, kernel_size=1),
        nn.ReLU6(),
        nn.Conv2d(channels[1], channels[1], 3, 1, 1, groups=channels[1]),
        random_layer(draw, family, (channels[1], 19), 1, kernel_size=3, stride=2),
    )
    check(nn.Sequential(*layers), torch.randn(3, 3, 15, 21))


@pytest.mark.parametrize("context_norm", [None, "running"])
@pytest.mark.parametrize("bias", [False, True])
def test_pointwise_squeeze_and_excitation(bias: bool, context_norm: str | None) -> None:
    layer = trained(SEConv2d(24, 40, 1, bias=bias, context_norm=context_norm))
    check(nn.Sequential(layer, nn.BatchNorm2d(40), nn.ReLU6()), torch.randn(3, 24, 9, 13))


@pytest.mark.parametrize("network", ["mobilenetv2_035", "resnet10"])
@pytest.mark.parametrize("family", [*FAMILIES, "se"])
def test_networks_of_mixtures_are_one_program(family: str, network: str) -> None:
    if (family, network) == ("se", "resnet10"):
        pytest.skip("its k x k layers run in torch")
    model = trained(timm.create_model(f"{family}_{network}", num_classes=10), 0.3)
    assert isinstance(deploy(model, backend="native"), NativeProgram)
    check(model, torch.randn(2, 3, 64, 64))


def test_threads_and_groups_change_no_mixture() -> None:
    network = trained(timm.create_model("odconv_mobilenetv2_035", num_classes=10), 0.3)
    check_threads(deploy(network, backend="native"), torch.randn(5, 3, 64, 64))
