"""Compares native kernels of cells (KernelWarehouse) with the layer in float64, over random geometries and options."""

import math
import random
from typing import Any

import pytest
import timm
import torch
from torch import nn

from dynaconv import KernelWarehouseConv2d, KernelWarehouseLinear, deploy
from dynaconv.families.contract.branch import BranchLinear
from dynaconv.native import NativeProgram
from tests.native.programs import check_threads
from tests.native.test_layers import check, depthwise_geometry, random_geometry
from tests.native.test_mixtures import trained


def randomised(model: nn.Module) -> nn.Module:
    """As `trained`; also gives layer norms of branches a random scale and shift."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return trained(model)


def random_layer(draw: random.Random, channels: tuple[int, int], groups: int, **geometry: Any) -> KernelWarehouseConv2d:
    def divisor(size: int) -> int:
        return draw.choice([d for d in (1, 2, 3, 4) if size % d == 0])

    options = {
        "bias": draw.random() < 0.5,
        "budget": draw.choice([1, 1, 2]),
        "out_divisor": divisor(channels[1]),
        "in_divisor": divisor(channels[0] // groups),
        "whole_taps": draw.random() < 0.3,
        "branch_norm": draw.choice(["batch", "layer"]),
        "context_norm": draw.choice([None, "layer", "running"]),
        "temperature": draw.choice([0, 0, 0.3, 1]),
    }
    layer = KernelWarehouseConv2d(*channels, groups=groups, **geometry, **options)
    randomised(layer)
    return layer


@pytest.mark.parametrize("seed", range(20))
def test_dense_and_grouped_layers(seed: int) -> None:
    draw = random.Random(seed)
    geometry, (batch, height, width) = random_geometry(draw)
    if seed % 3 == 0:
        geometry = {"kernel_size": 1}
    groups = draw.choice([1, 1, 2, 3])
    channels = draw.choice([6, 24, 36]), draw.choice([6, 12, 24, 48])
    layer = random_layer(draw, channels, groups, **geometry)
    check(nn.Sequential(layer, nn.BatchNorm2d(channels[1]), nn.ReLU()), torch.randn(batch, channels[0], height, width))


@pytest.mark.parametrize("seed", range(12))
def test_depthwise_layers(seed: int) -> None:
    draw = random.Random(seed)
    geometry, (batch, height, width) = depthwise_geometry(draw, fast=bool(seed % 2))
    channels = draw.choice([2, 8, 16, 24, 35])
    layer = random_layer(draw, (channels, channels), channels, **geometry)
    network = nn.Sequential(nn.Conv2d(3, channels, 1), layer, nn.BatchNorm2d(channels), nn.ReLU6())
    check(network, torch.randn(batch, 3, height, width))


def test_a_layer_fused_with_the_depthwise_step_after_it() -> None:
    draw = random.Random(0)
    layers = (
        random_layer(draw, (24, 200), 1, kernel_size=1),
        nn.ReLU6(),
        nn.Conv2d(200, 200, 3, 1, 1, groups=200),
        random_layer(draw, (200, 19), 1, kernel_size=3, stride=2),
    )
    check(nn.Sequential(*layers), torch.randn(3, 24, 15, 21))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenetv2_035", {}),
        ("resnet10", {}),
        # The logits of the other layers' cells have a basis.
        ("resnet10", {"budget": 0.5, "basis_reduction": 16, "branch_norm": "layer"}),
    ],
)
def test_networks_are_one_program(name: str, options: dict[str, Any]) -> None:
    network = timm.create_model(f"kernel_warehouse_{name}", num_classes=10, family_options=options)
    for module in network.modules():
        if isinstance(module, BranchLinear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    assert isinstance(deploy(network.eval(), backend="native"), NativeProgram)
    check(network, torch.randn(2, 3, 64, 64))


def test_a_dynamic_classifier() -> None:
    network = timm.create_model("static_resnet10", num_classes=10)
    network.fc = KernelWarehouseLinear(512, 10, out_divisor=2, in_divisor=8, temperature=0.3)
    assert isinstance(deploy(randomised(network), backend="native"), NativeProgram)
    check(network, torch.randn(3, 3, 64, 64))


def test_layers_of_one_warehouse_have_its_cells_once() -> None:
    network = timm.create_model("kernel_warehouse_resnet10", num_classes=10).eval()
    native = deploy(network, backend="native")
    parameters = sum(math.prod(parameter.shape) for parameter in deploy(network).parameters())
    # Heads have padding, and no batch norms are left.
    assert native.constants.numel() < 1.2 * parameters


def test_threads_and_groups_change_nothing() -> None:
    network = randomised(timm.create_model("kernel_warehouse_mobilenetv2_035", num_classes=10))
    check_threads(deploy(network, backend="native"), torch.randn(5, 3, 64, 64))
