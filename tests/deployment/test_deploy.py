"""`deploy`: the function stays, norms and what depends on parameters alone are gone, and the result can be shipped."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv.conversion.conversion import convert
from dynaconv.deployment import deploy, plan_deployment
from dynaconv.families import DCDConv2d, DCDLinear, DeployedLayer, get_family
from dynaconv.families.contract.operator import DynamicOperator
from tests.helpers import LAYERS, TOLERANCE

FAMILIES = {**{family: (family, {}) for family in LAYERS}, "dcd with norms": ("dcd", {"norm": "batch"})}


class Network(nn.Module):
    """Convolutions of every kind with a batch norm behind each, a shortcut, a dynamic classifier."""

    def __init__(self, family: str, hyperparameters: dict[str, Any]) -> None:
        super().__init__()
        make = LAYERS[family]
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.expand = make(8, 16, 1, bias=False, **hyperparameters)
        self.bn1 = nn.BatchNorm2d(16)
        self.spatial = make(16, 16, 3, padding=1, groups=2 if get_family(family).grouped else 1, **hyperparameters)
        self.bn2 = nn.BatchNorm2d(16, affine=False)
        self.project = make(16, 8, 1, **hyperparameters)
        self.bn3 = nn.BatchNorm2d(8)
        self.head = DCDLinear(8, 5, norm="batch")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.bn1(self.expand(x)).relu()
        y = self.bn2(self.spatial(y)).relu_()
        return self.head((x + self.bn3(self.project(y))).mean((2, 3)))


def images(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def seasoned(model: nn.Module) -> nn.Module:
    """The model in float64 and eval mode, its norms and branches far from their start."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if tensor.is_floating_point():
                    low = -0.5 if name in ("bias", "running_mean") else 0.5
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + low)
    for name, tensor in model.named_parameters():
        if ".heads." in name:
            tensor.data.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model.double().eval()


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


@pytest.mark.parametrize("size", [None, (2, 3, 13, 11)], ids=["any size", "sized"])
@pytest.mark.parametrize("name", FAMILIES)
def test_function_stays_without_a_norm_left(name: str, size: tuple[int, int, int, int] | None) -> None:
    model, x = seasoned(Network(*FAMILIES[name])), images(2, 3, 13, 11)
    state, want = copy.deepcopy(model.state_dict()), model(x)
    deployed = deploy(model.train(), size)
    assert model.training
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert all(not module.training for module in deployed.modules())
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    assert count_norms(deployed) == 0
    torch.testing.assert_close(deployed(x), want, **TOLERANCE["float64"])
    for layer in deployed.modules():
        if isinstance(layer, DynamicOperator):
            assert (layer.algorithm == "auto") == (size is None)


@pytest.mark.parametrize("name", FAMILIES)
def test_result_is_an_ordinary_module(name: str) -> None:
    model, x = seasoned(Network(*FAMILIES[name])), images(2, 3, 13, 11)
    deployed = deploy(model)
    want = deployed(x)
    torch.testing.assert_close(copy.deepcopy(deployed)(x), want, rtol=0, atol=0)
    torch.testing.assert_close(pickle.loads(pickle.dumps(deployed))(x), want, rtol=0, atol=0)
    other = deploy(Network(*FAMILIES[name]).double())
    other.load_state_dict(deployed.state_dict())
    torch.testing.assert_close(other(x), want, rtol=0, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_stays_close(name: str) -> None:
    model, x = seasoned(Network(*FAMILIES[name])), images(2, 3, 13, 11)
    want = model(x)
    got = deploy(model.float(), (2, 3, 13, 11))(x.float())
    assert (got - want).abs().max() < 1e-4 * want.abs().max()


@pytest.mark.parametrize("name", ["dcd with norms", "dyconv"])
def test_exports_with_a_free_batch_whatever_was_decided(name: str) -> None:
    """A layer deployed for one size, `grouped` included, still exports; the batch is not frozen."""
    model = seasoned(Network(*FAMILIES[name]))
    deployed = deploy(model, (1, 3, 13, 11))
    if name != "dcd with norms":
        deployed.spatial.algorithm = "grouped"  # type: ignore[assignment]
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(deployed, (images(2, 3, 13, 11),), dynamic_shapes={"x": {0: batch}})
    for count in (1, 5):
        x = images(count, 3, 13, 11)
        torch.testing.assert_close(program.module()(x), model(x), **TOLERANCE["float64"])


def test_inplace_changes_the_model_itself() -> None:
    model, x = seasoned(Network("dcd", {})), images(2, 3, 13, 11)
    want = model(x)
    assert deploy(model, inplace=True) is model
    assert count_norms(model) == 0
    torch.testing.assert_close(model(x), want, **TOLERANCE["float64"])


def test_deployed_twice_stays() -> None:
    model, x = seasoned(Network("dcd", {"norm": "batch"})), images(2, 3, 13, 11)
    torch.testing.assert_close(deploy(deploy(model))(x), model(x), **TOLERANCE["float64"])


def test_a_converted_network_and_one_named_algorithm() -> None:
    static = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    model = seasoned(convert(static, "dcd", algorithm="factored"))
    plan = plan_deployment(model, (3, 9, 9))
    assert dict(plan.folded) == {"1": "0", "4": "3"}
    assert plan.algorithms == {}
    x = images(2, 3, 9, 9)
    deployed = plan.apply(model)
    assert isinstance(deployed[3], DeployedLayer)  # type: ignore[index]
    assert deployed[3].algorithm == "factored"  # type: ignore[index]
    torch.testing.assert_close(deployed(x), model(x), **TOLERANCE["float64"])


def test_half_precision_network() -> None:
    model, x = seasoned(Network("dcd", {"norm": "batch"})), images(2, 3, 13, 11)
    want = model(x)
    got = deploy(model.bfloat16())(x.bfloat16())
    assert got.dtype == torch.bfloat16
    assert (got - want).abs().max() < 5e-2 * want.abs().max()


def test_plan_says_what_is_folded_and_what_is_not() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), DCDConv2d(4, 4, 1))
    text = str(plan_deployment(model, (3, 8, 8)))
    assert "2  folded into 1" in text
    assert "0  stays: it does not read a convolution's output" in text
    assert "4  prepared" in text
    assert "1 of 2 batch norms are folded; 1 of 1 dynamic layers get an algorithm." in text
    assert "4  algorithm as it is" in str(plan_deployment(model))
