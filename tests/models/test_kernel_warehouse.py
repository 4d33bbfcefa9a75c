"""The registered KernelWarehouse networks: published parameter counts, layers and warehouses."""

from typing import Any

import pytest
import timm

from dynaconv import convert, plan_conversion
from dynaconv.families import KernelWarehouseConv2d, KernelWarehouseLinear, Warehouse
from tests.helpers import count
from tests.messages import refuses

COUNTS = {
    ("resnet18", 0.25): 4_031_768,
    ("resnet18", 0.5): 7_431_044,
    ("resnet18", 1): 11_932_148,
    ("resnet18", 2): 23_242_127,
    ("resnet18", 4): 45_862_085,
    ("resnet50", 0.5): 17_638_264,
    ("resnet50", 1): 28_052_310,
    ("resnet50", 4): 102_015_144,
    ("mobilenetv2_100", 0.5): 2_654_396,
    ("mobilenetv2_100", 1): 5_168_146,
    ("mobilenetv2_100", 4): 11_379_382,
    ("mobilenetv2_050", 0.5): 1_466_888,
    ("mobilenetv2_050", 1): 2_854_522,
    ("mobilenetv2_050", 4): 4_648_587,
}
"""Parameters of the published code's networks, counted."""


def build(network: str, **options: Any) -> Any:
    """A registered network on the meta device."""
    return timm.create_model(f"kernel_warehouse_{network}", device="meta", family_options=options)


@pytest.mark.parametrize(("network", "budget"), COUNTS)
def test_parameters_are_those_of_the_published_networks(network: str, budget: float) -> None:
    assert count(build(network, budget=budget)) == COUNTS[network, budget]


def test_convnext_has_the_parameters_of_the_published_network() -> None:
    static = timm.create_model("convnext_tiny", conv_mlp=True, device="meta")
    options: dict[str, Any] = {"warehouse": "kind", "branch_norm": "layer", "include": ["stem.0", "stages.*"]}
    plan = plan_conversion(static, "kernel_warehouse", **options)
    assert (len(plan.converted), plan.converted_params) == (58, 39_370_674)
    assert count(convert(static, "kernel_warehouse", **options)) == 39_370_674


def test_layers_of_the_published_resnets() -> None:
    for network, number, cells in (
        ("resnet18", 19, [(56, 64, 64, 1, 1), (47, 128, 128, 1, 1), (47, 256, 256, 1, 1), (27, 512, 512, 1, 1)]),
        ("resnet50", 50, None),
    ):
        model = build(network)
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, KernelWarehouseConv2d)}
        assert len(layers) == number
        warehouses = [module for module in model.modules() if isinstance(module, Warehouse)]
        assert len(warehouses) == 4
        if cells is not None:
            assert [tuple(warehouse.cells.shape) for warehouse in warehouses] == cells
            first = {name: layer.slot.first for name, layer in layers.items()}
            assert [first[f"layer1.{block}.conv{conv}"] for block in (0, 1) for conv in (1, 2)] == [0, 9, 18, 27]
            assert (first["layer2.0.conv1"], first["layer2.0.downsample.0"], first["layer2.0.conv2"]) == (36, 54, 0)
            assert (first["layer2.1.conv1"], first["layer2.1.conv2"], first["layer3.0.conv1"]) == (9, 18, 27)
            assert first["layer3.0.downsample.0"] == 45
            assert layers["layer2.0.conv1"].warehouse is layers["layer1.0.conv1"].warehouse


def test_layers_of_the_published_mobilenets() -> None:
    whole = build("mobilenetv2_100")
    assert sum(isinstance(layer, KernelWarehouseConv2d) for layer in whole.modules()) == 52
    half = build("mobilenetv2_100", budget=0.5)
    assert isinstance(half.classifier, KernelWarehouseLinear)
    assert tuple(half.classifier.warehouse.cells.shape) == (20, 1000, 32, 1)
    assert not isinstance(half.get_submodule("blocks.1.0.conv_pw"), KernelWarehouseConv2d)
    half.reset_classifier(12)
    assert isinstance(half.classifier, KernelWarehouseLinear)
    for width in ("035", "075", "140"):
        build(f"mobilenetv2_{width}", budget=0.25)


def test_options_select_fewer_layers() -> None:
    assert isinstance(build("resnet18").layer2[0].downsample[0], KernelWarehouseConv2d)
    model = timm.create_model("kernel_warehouse_resnet18", dynamic_downsample=False, device="meta")
    assert not isinstance(model.layer2[0].downsample[0], KernelWarehouseConv2d)
    model = timm.create_model("kernel_warehouse_mobilenetv2_050", dynamic_depthwise=False, device="meta")
    assert not isinstance(model.get_submodule("blocks.0.0.conv_dw"), KernelWarehouseConv2d)
    assert isinstance(model.conv_stem, KernelWarehouseConv2d)
    model = timm.create_model("kernel_warehouse_mobilenetv2_050", dynamic="pointwise", device="meta")
    assert not isinstance(model.conv_stem, KernelWarehouseConv2d)
    assert isinstance(model.conv_head, KernelWarehouseConv2d)


@pytest.mark.parametrize("options", [{"budget": 1.5}, {"warehouse": "stage"}, {"start": "exact"}], ids=str)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with refuses(ValueError, next(iter(options))):
        build("resnet18", **options)
