"""Networks converted to KernelWarehouse, by warehouse: exact starts, fits, records, deployment and export."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import (
    KernelWarehouseConv1d,
    KernelWarehouseConv2d,
    KernelWarehouseConv3d,
    Warehouse,
    apply_conversion,
    conversion_of,
    convert,
    deploy,
    export_onnx,
    freeze,
    plan_conversion,
    plan_deployment,
    profile,
    revert,
    set_temperature,
)
from dynaconv.errors import ConversionError
from dynaconv.families.kernel_warehouse.grouping import warehouse_names
from tests.helpers import TOLERANCE, assert_file_computes, count
from tests.messages import refuses


class Block(nn.Module):
    """Two convolutions, a depthwise one and a shortcut."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, groups=c_out)
        self.conv3 = nn.Conv2d(c_out, c_out, 1)
        self.downsample = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + self.downsample(x)).relu()


class Net(nn.Module):
    """A stem and two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.layer1 = nn.Sequential(Block(8, 8), Block(8, 8))
        self.layer2 = nn.Sequential(Block(8, 16))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer2(self.layer1(self.stem(x))).mean((2, 3))
        return out


def static() -> Net:
    torch.manual_seed(0)
    net = Net()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 9, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("budget", [1, 2, 4])
@pytest.mark.parametrize("rule", ["stage", "kind", "layer"])
def test_a_converted_network_computes_the_same(budget: float, rule: str) -> None:
    net, x = static(), images()
    plan = plan_conversion(net, "kernel_warehouse", budget=budget, warehouse=rule)
    dynamic: Any = plan.apply(net)
    torch.testing.assert_close(dynamic(x), net(x), **TOLERANCE["float32"])
    assert count(dynamic) == plan.converted_params
    number = sum(isinstance(module, Warehouse) for module in dynamic.modules())
    # Dense and depthwise, in two stages; with "kind", 3x3 and 1x1 apart.
    assert number == {"stage": 4, "kind": 6, "layer": 12}[rule]
    shared = dynamic.layer1[1].conv1.warehouse is dynamic.layer1[0].conv1.warehouse
    assert shared == (rule != "layer")
    optimizer = torch.optim.SGD(dynamic.parameters(), lr=0.1)
    dynamic.train()(x).square().mean().backward()
    optimizer.step()
    assert not torch.allclose(dynamic.eval()(x), net(x))
    assert not dynamic.layer1[0].conv1.is_neutral


class Mixed(nn.Module):
    """Signals and volumes in one stage."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.ModuleDict(
            {
                "signal": nn.Conv1d(4, 8, 3, padding=1),
                "volume": nn.Conv3d(8, 8, (1, 2, 3)),
                "last": nn.Conv3d(8, 4, 1),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        volume = self.layer1["signal"](x).reshape(-1, 8, 2, 3, 5)
        out: Tensor = self.layer1["last"](self.layer1["volume"](volume).relu())
        return out


def test_layers_of_other_dimensions_have_warehouses_of_their_own() -> None:
    net, x = Mixed().eval(), torch.randn(2, 4, 30)
    plan = plan_conversion(net, "kernel_warehouse", include=["layer1.signal", "layer1.volume", "layer1.last"])
    dynamic: Any = plan.apply(net)
    signal, volume, last = dynamic.layer1.values()
    assert (type(signal), type(volume), type(last)) == (
        KernelWarehouseConv1d,
        KernelWarehouseConv3d,
        KernelWarehouseConv3d,
    )
    torch.testing.assert_close(dynamic(x), net(x), **TOLERANCE["float32"])
    assert last.warehouse is volume.warehouse is not signal.warehouse
    assert count(dynamic) == plan.converted_params
    rebuilt = apply_conversion(Mixed().eval(), conversion_of(dynamic))
    rebuilt.load_state_dict(dynamic.state_dict())
    torch.testing.assert_close(rebuilt(x), dynamic(x))
    torch.testing.assert_close(deploy(dynamic, example=x)(x), dynamic(x), **TOLERANCE["float32"])


def test_revert_gives_the_static_network_back() -> None:
    net, x = static(), images()
    dynamic = convert(net, "kernel_warehouse", budget=2)
    set_temperature(dynamic, 0.5)
    # At another temperature a neutral kernel differs by 0.05 %; the static network has that of the dynamic one.
    back = revert(dynamic)
    torch.testing.assert_close(back(x), dynamic(x), **TOLERANCE["float32"])
    assert back.state_dict().keys() == net.state_dict().keys()
    set_temperature(dynamic, 0.0)
    torch.testing.assert_close(revert(dynamic).state_dict(), net.state_dict(), **TOLERANCE["float32"])


def test_layers_that_share_cells_are_frozen_together() -> None:
    dynamic, x = dynamic_network(), images(5)
    with refuses(ConversionError, "layer1.0.conv1", "layer1.0.conv3"):
        freeze(dynamic, "layer1.0.conv1", x)
    with refuses(ConversionError, "layer2.0.conv3", "layer2.0.downsample"):
        freeze(dynamic, "layer2.0.conv[13]", x)
    frozen: Any = freeze(dynamic, "layer1.*", x)
    assert count(frozen.layer1) == count(static().layer1)
    conv = dynamic.layer1[0].conv1
    assert type(frozen.layer1[0].conv1) is nn.Conv2d
    torch.testing.assert_close(frozen.layer1[0].conv1.weight, conv.kernel(dynamic.stem(x)).mean(0))
    assert frozen.layer2[0].conv3.warehouse is frozen.layer2[0].conv1.warehouse
    rebuilt = apply_conversion(static(), conversion_of(frozen))
    rebuilt.load_state_dict(frozen.state_dict())
    torch.testing.assert_close(rebuilt(x), frozen(x))


def test_at_temperature_one_a_trained_network_is_static() -> None:
    dynamic: Any = convert(static(), "kernel_warehouse")
    for parameter in dynamic.parameters():
        nn.init.normal_(parameter, std=0.2)
    with refuses(ConversionError, "layer1.0.conv1"):
        revert(dynamic)
    set_temperature(dynamic, 1)
    x = images()
    torch.testing.assert_close(revert(dynamic)(x), dynamic(x), **TOLERANCE["float32"])


def test_a_record_rebuilds_the_warehouses() -> None:
    net, x = static(), images()
    for options in ({"budget": 2}, {"budget": 0.5, "start": "least_squares"}, {"budget": 0.5, "start": "random"}):
        dynamic: Any = convert(net, "kernel_warehouse", **options)
        again: Any = apply_conversion(Net(), conversion_of(dynamic)).eval()
        again.load_state_dict(dynamic.state_dict())
        assert torch.equal(again(x), dynamic(x))
        assert again.layer1[1].conv3.warehouse is again.layer1[0].conv1.warehouse


def test_a_second_conversion_has_warehouses_of_its_own() -> None:
    net, x = static(), images()
    first = convert(net, "kernel_warehouse", include="layer1.0.*")
    dynamic: Any = convert(first, "kernel_warehouse", include="layer1.1.*", again=True)
    assert dynamic.layer1[1].conv1.warehouse is not dynamic.layer1[0].conv1.warehouse
    again = apply_conversion(Net(), conversion_of(dynamic)).eval()
    again.load_state_dict(dynamic.state_dict())
    assert torch.equal(again(x), dynamic(x))


def test_a_budget_below_one_is_refused_or_fitted() -> None:
    net, x = static(), images()
    with refuses(ConversionError, "least_squares"):
        convert(net, "kernel_warehouse", budget=0.5)
    plan = plan_conversion(net, "kernel_warehouse", budget=0.5, start="least_squares")
    dynamic: Any = plan.apply(net)
    assert count(dynamic) == plan.converted_params
    weights = {name: module.weight for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    for layer in plan.converted:
        got = dynamic.get_submodule(layer.name)
        want = weights[layer.name].detach()
        kernel = got.kernel(torch.randn(1, got.in_channels, 4, 4))[0].detach()
        assert layer.relative_error == pytest.approx(float((kernel - want).norm() / want.norm()), rel=1e-3, abs=1e-5)
        assert f"relative error {layer.relative_error:.3f}" in str(plan)
    errors = [layer.relative_error for layer in plan.converted]
    assert 0.1 < max(error for error in errors if error is not None) < 1
    assert all(dynamic.get_submodule(layer.name).is_neutral for layer in plan.converted)
    assert torch.allclose(revert(dynamic)(x), dynamic(x), **TOLERANCE["float32"])


def test_low_rank_kernels_are_fitted_exactly() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, bias=False)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(8, 8)[:, :, None, None] * torch.randn(3, 3))
    plan = plan_conversion(net, "kernel_warehouse", budget=0.25, start="least_squares")
    assert plan.converted[0].relative_error == pytest.approx(0, abs=1e-6)
    x = images()
    torch.testing.assert_close(plan.apply(net)(x), net(x), **TOLERANCE["float32"])


def test_nothing_is_half_converted() -> None:
    net = static()
    before = dict(net.named_modules())
    for options, word in (
        ({"budget": 1.5}, "budget"),
        ({"warehouse": "name"}, "warehouse"),
        ({"whole_taps": True}, "whole_taps"),
        ({"budget": 0.5, "start": "least_squares", "temperature": 0.5}, "temperature"),
    ):
        with refuses(ConversionError, word, case=word):
            convert(net, "kernel_warehouse", inplace=True, **options)
        assert dict(net.named_modules()) == before


def test_layers_without_a_common_divisor_get_further_warehouses() -> None:
    sizes = {"a.0.x": (8, 64), "a.0.y": (64, 8), "a.0.z": (63, 7), "a.0.w": (8, 64)}
    names = warehouse_names(nn.Module(), {name: nn.Conv2d(*size, 1) for name, size in sizes.items()}, {})
    assert {name: options["warehouse"] for name, options in names.items()} == {
        "a.0.x": "a.0 dense",
        "a.0.y": "a.0 dense",
        "a.0.z": "a.0 dense 2",
        "a.0.w": "a.0 dense",
    }


def test_stages_are_parts_of_names() -> None:
    names = ("layer1.0.conv1", "stages.2.blocks.1.dw", "conv_stem", "body.stage3.conv", "2")
    found = warehouse_names(nn.Module(), {name: nn.Conv2d(4, 4, 1) for name in names}, {"warehouse": "kind"})
    stages = [options["warehouse"].removesuffix(" pointwise") for options in found.values()]
    assert stages == ["layer1", "stages.2", "conv_stem", "body.stage3", "2"]


def dynamic_network(temperature: float = 0.0) -> Any:
    dynamic: Any = convert(static(), "kernel_warehouse", budget=2)
    for module in dynamic.modules():
        if isinstance(module, KernelWarehouseConv2d):
            nn.init.normal_(module.branch.head.weight)
    set_temperature(dynamic, temperature)
    return dynamic


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_deployed_layers_share_frozen_cells(temperature: float, backend: str) -> None:
    dynamic, x = dynamic_network(temperature), images()
    assert not plan_deployment(dynamic, example=x).kept
    deployed: Any = deploy(dynamic, example=x, backend=backend)
    torch.testing.assert_close(deployed(x), dynamic(x), **TOLERANCE["float32"])
    assert deployed.layer1[1].conv3.warehouse is deployed.layer1[0].conv1.warehouse
    assert sum(isinstance(module, Warehouse) for module in deployed.modules()) == 4
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    again = deploy(deployed, example=x)
    torch.testing.assert_close(again(x), dynamic(x), **TOLERANCE["float32"])
    assert count(again) == count(deployed)
    assert dynamic.layer1[0].conv1.warehouse.cells.requires_grad


def test_profile_counts_the_assembly() -> None:
    """Convolution, branch and assembly by the formulas of the specification."""
    layer = KernelWarehouseConv2d(16, 32, 3, padding=1, budget=2)
    cost = profile(nn.Sequential(layer), (16, 7, 5))
    weights, blocks, cells = 32 * 16 * 9, 9, 18
    branch = 16 * 16 + 16 * blocks * (cells + 1)
    assert cost.published_macs == cost.macs == weights * 35 + branch + cells * weights
    assert cost.params == cells * 16 * 32 + 16 * 16 + 2 * 16 + 17 * blocks * (cells + 1) + 32


@pytest.mark.export
def test_export_with_a_free_batch(tmp_path: Path) -> None:
    block = dynamic_network(0.5).layer1[0]
    small, x = nn.Sequential(block.conv1, nn.ReLU(), block.conv3).eval(), torch.randn(2, 8, 9, 8)
    report = export_onnx(small, tmp_path / "net.onnx", x)
    assert report.difference < 1e-4
    assert_file_computes(tmp_path / "net.onnx", small, (8, 9, 8))
