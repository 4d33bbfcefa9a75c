"""`freeze`: the kernels of frozen layers are means, and everything else stays as it was."""

import copy
import importlib
import re

import pytest
import torch
from torch import Tensor, nn

import dynaconv
from dynaconv.errors import ConversionError
from dynaconv.families import CondConv2d, DCDConv2d, DCDLinear, DYConv2d, DynamicConv2d, ODConv2d, SEConv2d
from dynaconv.families.dcd.reference import reference_dcd_kernel
from dynaconv.ops.mixture import mix_kernels
from dynaconv.testing.tolerance import assert_close
from tests.families.cases import CASES, enlarge
from tests.messages import refuses


def varied(batch: int, *shape: int) -> Tensor:
    """Images whose averages differ."""
    return torch.randn(batch, *shape, dtype=torch.float64) + torch.randn(batch, shape[0], 1, 1, dtype=torch.float64)


# torch warns of a slow path in the static convolution of even kernel size.
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_a_frozen_layer_has_the_mean_kernel_and_bias(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = CASES[case].ready(), varied(7, 8, 9, 8)
    if layer.freezing_refusal() is not None:
        pytest.skip("it modulates its input")
    monkeypatch.setattr(importlib.import_module("dynaconv.conversion.freeze"), "_MAX_NUMBERS", 3 * layer.weight.numel())
    frozen = dynaconv.freeze(layer, "*", x.split(4))
    assert type(frozen) is nn.Conv2d
    kernels, biases = layer.kernel(x), layer.sample_bias(x)
    torch.testing.assert_close(frozen.weight, kernels.mean(0), rtol=1e-10, atol=1e-12)
    assert (frozen.bias is None) == (biases is None)
    if biases is not None:
        torch.testing.assert_close(frozen.bias, biases.mean(0), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(kernels, kernels[:1], rtol=1e-3)
    # With one image, the mean kernel is its kernel.
    assert_close(dynaconv.freeze(layer, "*", x[:1])(x[:1]), layer(x[:1]))


def test_a_layer_that_modulates_its_input_stays_dynamic() -> None:
    x = torch.randn(2, 8, 8, 8)
    layer = dynaconv.FDConv2d(8, 8, 3)
    model = nn.Sequential(layer, dynaconv.FDConv2d(8, 8, 1))
    with refuses(ConversionError, "'0'", "bands"):
        dynaconv.freeze(model, "*", x)
    assert type(dynaconv.freeze(model, "1", x)[1]) is nn.Conv2d
    assert layer.bands is not None
    layer.bands.neutralise()
    frozen = dynaconv.freeze(model.eval(), "0", x[:1])
    torch.testing.assert_close(frozen(x[:1]), model(x[:1]), rtol=1e-4, atol=1e-5)


def test_the_mean_kernel_is_the_kernel_of_the_mean_coefficients_where_it_is_linear() -> None:
    x = varied(6, 5, 7, 7)

    def layer(kind: type[DynamicConv2d]) -> DynamicConv2d:
        made = kind(5, 6, 3)
        enlarge(made)
        return made.double().eval()

    for kind in (CondConv2d, DYConv2d):
        mixture = layer(kind)
        attention = mixture.coefficients(x).attention.mean(0, keepdim=True)
        assert_close(dynaconv.freeze(mixture, "*", x).weight, mix_kernels(attention, mixture.weight)[0])
    dcd = layer(DCDConv2d)
    assert isinstance(dcd, DCDConv2d)
    factors, _ = dcd._factors(dcd._context(x), dcd.weight, track=False)
    assert factors.scale is not None
    assert factors.fusion is not None
    mean = factors._replace(scale=factors.scale.mean(0, True), fusion=factors.fusion.mean(0, True))
    assert_close(dynaconv.freeze(dcd, "*", x).weight, reference_dcd_kernel(mean, dcd.geometry, 0))
    se = layer(SEConv2d)
    assert_close(dynaconv.freeze(se, "*", x).weight, se.coefficients(x).scale.mean(0)[:, None, None, None] * se.weight)


def network() -> nn.Sequential:
    layers = [nn.Conv2d(3, 6, 3), CondConv2d(6, 8, 3), nn.BatchNorm2d(8), DCDConv2d(8, 8, 1), ODConv2d(8, 8, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), DCDLinear(8, 4)]
    net = nn.Sequential(*layers, *head)
    for module in net:
        if isinstance(module, dynaconv.DynamicLayer):
            enlarge(module)
    return net.double()


def test_only_the_named_layers_are_frozen_and_the_network_stays_as_it_was() -> None:
    net = network()
    net[3].weight.requires_grad_(False)
    net[1].register_forward_hook(lambda *_: None)
    net[4].eval()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    frozen = dynaconv.freeze(net, ["1", re.compile("^[37]$")], [(varied(5, 3, 9, 9), None)])
    kinds = [nn.Conv2d, nn.Conv2d, nn.BatchNorm2d, nn.Conv2d, ODConv2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]
    assert [type(module) for module in frozen] == kinds
    assert type(net[1]) is CondConv2d
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert [module.training for module in net.modules()] == modes
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert frozen[1].weight.requires_grad
    assert not frozen[3].weight.requires_grad
    assert frozen[3].bias.requires_grad
    assert len(frozen[1]._forward_hooks) == 1
    assert frozen[3].training
    assert not frozen[4].training
    assert dynaconv.conversion_of(frozen).keys() == {"4"}
    dynaconv.deploy(frozen.eval())(varied(2, 3, 9, 9))


def test_a_network_that_is_still_neutral_computes_the_same_when_frozen() -> None:
    torch.manual_seed(0)
    static = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 1))
    x = varied(6, 3, 12, 11)
    for family in ("dcd", "condconv", "odconv"):
        net = dynaconv.convert(static.double().eval(), family)
        frozen = dynaconv.freeze(net, "*", x.split(2), inplace=True)
        assert frozen is net
        assert not any(isinstance(module, dynaconv.DynamicLayer) for module in frozen.modules())
        assert_close(frozen(x), static(x))


def test_a_layer_with_two_names_stays_one_layer() -> None:
    layer = DYConv2d(4, 4, 3, padding=1).double()
    net = nn.Sequential(layer, nn.ReLU(), layer)
    frozen = dynaconv.freeze(net, "2", varied(3, 4, 6, 6), max_batches=1)
    assert type(frozen[0]) is nn.Conv2d
    assert frozen[0] is frozen[2]


def test_mistakes_are_refused() -> None:
    net, x = network(), varied(2, 3, 9, 9)
    with refuses(ConversionError, "'4x'"):
        dynaconv.freeze(net, "4x", x)
    with refuses(ConversionError):
        dynaconv.freeze(nn.Sequential(nn.Conv2d(3, 3, 1)), "*", x)
    with refuses(ConversionError, "inplace"):
        dynaconv.freeze(CondConv2d(3, 3, 1).double(), "*", x, inplace=True)
    with refuses(ConversionError, "'1'"):
        dynaconv.freeze(net, "1", [])
    with refuses(ConversionError, "'1'"):
        dynaconv.freeze(net, "1", x * float("nan"))
    with refuses(ConversionError, "names"):
        dynaconv.freeze(net, [], x)
    with refuses(TypeError, "None"):
        dynaconv.freeze(net, None, x)
    with refuses(TypeError):
        dynaconv.freeze(net, 3, x)
    with refuses(TypeError, "Tensor"):
        dynaconv.freeze(net, x, "1")
    with refuses(TypeError, "data"):
        dynaconv.freeze(net, "1", 5)
    with refuses(TypeError, "dict"):
        dynaconv.freeze(net, "1", [{"images": x}])
    unused = nn.ModuleDict({"used": nn.Conv2d(3, 3, 1), "unused": DYConv2d(3, 3, 1)}).double()
    unused.forward = unused["used"].forward
    with refuses(ConversionError, "'unused'"):
        dynaconv.freeze(unused, "unused", x)
