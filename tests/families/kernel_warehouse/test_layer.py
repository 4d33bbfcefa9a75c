"""KernelWarehouse layers: options, linear layers, shared cells and what copies of a network do with them."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

import dynaconv
from dynaconv import KernelWarehouseConv2d, KernelWarehouseLinear, Warehouse, set_temperature, share_cells
from dynaconv.families.kernel_warehouse.config import KernelWarehouseConfig
from dynaconv.testing.cases import enlarge, randomise_norms
from tests.helpers import TOLERANCE
from tests.messages import refuses


def network() -> nn.Sequential:
    """Three layers, of which the first two share their cells."""
    torch.manual_seed(0)
    net = nn.Sequential(
        KernelWarehouseConv2d(4, 8, 3, padding=1, budget=2),
        nn.Sequential(nn.ReLU(), KernelWarehouseConv2d(8, 12, 1, budget=2)),
        KernelWarehouseConv2d(12, 4, 1),
    )
    share_cells([net[0], net[1][1]])
    return net.eval()


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, 4, 6, 5, generator=torch.Generator().manual_seed(1))


def warehouses(net: nn.Module) -> list[Warehouse]:
    return [module for module in net.modules() if isinstance(module, Warehouse)]


def test_the_cells_are_once_in_state_parameters_and_optimizer() -> None:
    net = network()
    assert [name for name in net.state_dict() if "cells" in name] == ["0.warehouse.cells", "2.warehouse.cells"]
    assert net[1][1].warehouse is net[0].warehouse
    # 72 / 16 blocks of 4 x 4 and 96 / 16, two cells for each.
    assert tuple(net[0].warehouse.cells.shape) == (2 * (18 + 6), 4, 4, 1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    before = net[1][1].warehouse.cells.clone()
    net.train()(images()).square().sum().backward()
    optimizer.step()
    assert not torch.equal(net[1][1].warehouse.cells, before)


def _saved(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


COPIES = pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), _saved], ids=["deepcopy", "pickle", "save"]
)


@COPIES
def test_copies_of_a_network_keep_the_cells_shared(copied: Any) -> None:
    net, x = network(), images()
    other = copied(net)
    assert torch.equal(other(x), net(x))
    assert list(other.state_dict()) == list(net.state_dict())
    assert other[1][1].warehouse is other[0].warehouse
    assert other[0].warehouse is not net[0].warehouse
    assert len(warehouses(other)) == 2
    with torch.no_grad():
        other[0].warehouse.cells.zero_()
    assert not torch.equal(other(x), net(x))
    assert not other[1][1].kernel(torch.randn(1, 8, 3, 3)).any()


@COPIES
@pytest.mark.parametrize("deployed", [False, True], ids=["trainable", "deployed"])
def test_a_copied_part_owns_its_cells(copied: Any, deployed: bool) -> None:
    net = dynaconv.deploy(network()) if deployed else network()
    part, x = copied(net[1]), torch.randn(2, 8, 3, 3)
    assert [name for name, _ in part.named_parameters() if "cells" in name] == ["1.warehouse.cells"]
    assert torch.equal(part(x), net[1](x))
    assert part.double()(x.double()).dtype == torch.float64
    both = copied(nn.ModuleList([net[1], net[0]]))
    assert len(warehouses(both)) == 1
    assert both[0][1].warehouse is both[1].warehouse


def test_state_dicts_and_moves_reach_every_layer() -> None:
    net, x = network(), images()
    other = network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    net.double()
    assert net[1][1].kernel(torch.randn(1, 8, 3, 3).double()).dtype == torch.float64
    torch.testing.assert_close(net(x.double()).float(), other(x), **TOLERANCE["float32"])
    meta = copy.deepcopy(other).to("meta")
    assert meta[1][1].warehouse.cells.is_meta
    meta.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(meta(x), other(x))


def test_an_average_of_the_weights_follows_the_temperature() -> None:
    net = network().train()
    average = ModelEmaV3(net, decay=0.5)
    assert set_temperature(net, 0.75) == 3
    average.update(net)
    assert [float(layer.temperature) for layer in (average.module[0], average.module[1][1])] == [0.75, 0.75]
    assert average.module[1][1].warehouse is average.module[0].warehouse


def test_data_parallel_is_refused() -> None:
    net = network()
    with refuses(RuntimeError, "DistributedDataParallel"):
        net[1][1]._replicate_for_data_parallel()


def test_linear_layers_map_every_token_of_a_sample_alike() -> None:
    layer = KernelWarehouseLinear(8, 6, budget=2, in_divisor=2, out_divisor=3).double()
    enlarge(layer)
    randomise_norms(layer)
    layer.eval()
    x = torch.randn(3, 2, 5, 8, dtype=torch.float64)
    kernel = layer.kernel(x)
    assert kernel.shape == (3, 6, 8)
    want = torch.einsum("bhwi,boi->bhwo", x, kernel) + layer.bias
    for module in (layer, layer.deployed()):
        torch.testing.assert_close(module(x), want, **TOLERANCE["float64"])
    assert not torch.allclose(kernel[0], kernel[1])
    each = torch.cat([layer(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(layer(x), each, **TOLERANCE["float64"])
    with refuses(ValueError, "in_features"):
        layer(torch.randn(3, 7))


@pytest.mark.parametrize("start", ["exact", "random"])
def test_a_linear_layer_starts_from_a_static_one(start: str) -> None:
    static = nn.Linear(8, 6)
    x = torch.randn(4, 8)
    layer = KernelWarehouseLinear.from_linear(static, start=start)
    assert layer.is_neutral == (start == "exact")
    same = torch.allclose(layer.eval()(x), static(x), **TOLERANCE["float32"])
    assert same == (start == "exact")


def test_a_deployed_linear_layer_takes_in_a_norm() -> None:
    layer = KernelWarehouseLinear(8, 6, budget=2, temperature=0.5).double().eval()
    x, scale, shift = torch.randn(3, 8).double(), torch.randn(6).double(), torch.randn(6).double()
    form = layer.deployed()
    form.absorb_affine(scale, shift)
    torch.testing.assert_close(form(x), layer(x) * scale + shift, **TOLERANCE["float64"])
    kernel = form.kernel(x)
    torch.testing.assert_close(kernel, layer.kernel(x) * scale[:, None], **TOLERANCE["float64"])


def test_the_published_initialisation() -> None:
    layer = KernelWarehouseConv2d(32, 64, 3, budget=2, in_divisor=2)
    # 36 own cells of 64 outputs.
    assert float(layer.warehouse.cells.detach().std()) == pytest.approx((2 / (36 * 64)) ** 0.5, rel=0.02)
    assert float(layer.branch.head.weight.detach().std()) == pytest.approx((2 / (18 * 37)) ** 0.5, rel=0.05)
    assert layer.bias is not None
    assert not layer.bias.any()
    assert not layer.branch.head.bias.any()


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_a_neutral_layer_is_exact_at_its_temperature(temperature: float) -> None:
    conv = nn.Conv2d(6, 4, 3).double()
    layer = KernelWarehouseConv2d.from_conv(conv, temperature=temperature, budget=3)
    assert layer.is_neutral
    torch.testing.assert_close(layer._static_value("weight"), conv.weight, **TOLERANCE["float64"])
    torch.testing.assert_close(layer.static_conv().weight, conv.weight, **TOLERANCE["float64"])
    set_temperature(layer, 0.5)
    kernel = layer.kernel(torch.randn(1, 6, 3, 3).double())[0].detach()
    # The 0.001 in the attention's denominator.
    assert float((kernel - conv.weight.detach()).abs().max() / conv.weight.detach().abs().max()) < 1.001e-3


def test_a_static_weight_sets_only_the_layers_own_cells() -> None:
    net = network()
    conv = nn.Conv2d(8, 12, 1)
    before = net[0].weight.clone()
    net[1][1].load_state_dict(conv.state_dict(), strict=False)
    net[1][1]._neutralise()
    torch.testing.assert_close(net[1][1]._static_value("weight"), conv.weight, **TOLERANCE["float32"])
    assert torch.equal(net[0].weight, before)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        net[1][1].load_state_dict({"weight": torch.zeros(3, 8, 1, 1)}, strict=False)
    half = KernelWarehouseConv2d(4, 4, 1, budget=0.5)
    with pytest.raises(RuntimeError, match=r"budget=0\.5"):
        half.load_state_dict(nn.Conv2d(4, 4, 1).state_dict(), strict=False)


def test_weight_sets_the_starting_cells() -> None:
    layer: Any = KernelWarehouseConv2d(4, 6, 3, budget=2, out_divisor=3)
    value = nn.Parameter(torch.randn(6, 4, 3, 3))
    layer.weight = value
    assert torch.equal(layer.weight, value)
    assert "weight" not in dict(layer.named_parameters())
    layer = KernelWarehouseConv2d(4, 6, 3, budget=0.5)
    with refuses(ValueError, "budget"):
        layer.weight = value


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 1.5},
        {"budget": 0.3},
        {"budget": 40},
        {"budget": "1"},
        {"out_divisor": 0},
        {"in_divisor": 0.5},
        {"basis_reduction": 0},
        {"branch_norm": "group"},
        {"start": "zero"},
        {"warehouse": ""},
        {"temperature": 1.5},
        {"temperature": -0.1},
        {"whole_taps": 1},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with refuses(ValueError, next(iter(options))):
        KernelWarehouseConfig(**options)


@pytest.mark.parametrize(
    ("arguments", "options", "word"),
    [
        ((8, 5, 1), {"out_divisor": 2}, "out_divisor"),
        ((7, 4, 1), {"in_divisor": 2}, "in_divisor"),
        ((5, 5, 1), {"budget": 0.5, "in_divisor": 1, "out_divisor": 5}, "budget"),
    ],
    ids=str,
)
def test_a_kernel_that_cannot_be_cut_is_refused(arguments: Any, options: dict[str, Any], word: str) -> None:
    with refuses(ValueError, word):
        KernelWarehouseConv2d(*arguments, **options)


@pytest.mark.parametrize(
    ("layers", "word"),
    [
        ([], "one"),
        ([KernelWarehouseConv2d(4, 4, 1), KernelWarehouseConv2d(4, 4, 1, budget=2)], "budget"),
        ([KernelWarehouseConv2d(4, 4, 1), KernelWarehouseConv2d(4, 4, 1, dtype=torch.float64)], "dtype"),
        ([KernelWarehouseConv2d(4, 4, 1), KernelWarehouseLinear(4, 4)], "axes"),
        ([KernelWarehouseConv2d(4, 4, k, whole_taps=True) for k in (1, 3)], "whole_taps"),
        ([KernelWarehouseConv2d(4, 4, 1)] * 2, "twice"),
    ],
    ids=["none", "budgets", "dtypes", "dimensions", "taps", "twice"],
)
def test_layers_that_cannot_share_are_refused(layers: list[Any], word: str) -> None:
    with refuses(ValueError, word):
        share_cells(layers)


def test_only_layers_of_the_family_share() -> None:
    with refuses(TypeError, "Conv2d"):
        share_cells([nn.Conv2d(4, 4, 1)])  # type: ignore[list-item]


def test_a_shared_basis_needs_fewer_parameters() -> None:
    def build(reduction: int) -> list[KernelWarehouseConv2d]:
        layers = [KernelWarehouseConv2d(16, 16, 3, in_divisor=2, basis_reduction=reduction) for _ in range(3)]
        share_cells(layers)
        return layers

    def count(layers: list[KernelWarehouseConv2d]) -> int:
        return sum(parameter.numel() for layer in layers for parameter in layer.branch.parameters())

    full, basis = build(1), build(4)
    # M = 18, n = 54, L = 18, K = 16, R = 16.
    norm_and_first = 16 * 16 + 2 * 16
    assert count(full) == 3 * (norm_and_first + 17 * 18 * 55)
    assert count(basis) == 3 * (norm_and_first + 16 * 18 * (18 + 16 + 1) + 16 * 36 + 18 * 55)
    conv = nn.Conv2d(16, 16, 3)
    layers = [KernelWarehouseConv2d.from_conv(conv, in_divisor=2, basis_reduction=4, warehouse="a") for _ in range(3)]
    share_cells(layers, "a")
    x = torch.randn(2, 16, 5, 5)
    for layer in layers:
        assert layer.is_neutral
        torch.testing.assert_close(layer.eval()(x), conv(x), **TOLERANCE["float32"])
