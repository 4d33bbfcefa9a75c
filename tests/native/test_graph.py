"""Networks are recognised from the graph of their forward pass; what has no native form stays in torch."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from dynaconv import convert, deploy
from dynaconv.native import NativeProgram
from tests.native.programs import run_steps, with_fields
from tests.native.test_layers import check
from tests.native.test_mixtures import trained


def moved(network: nn.Module) -> nn.Module:
    """Give norms and layer scales values away from their initial ones."""
    for name, parameter in network.named_parameters():
        if name.endswith(("gamma", "layer_scale")):
            nn.init.uniform_(parameter, 0.2, 0.6)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
    return network.eval()


SMALL_CONVNEXT: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": (16, 24, 40, 56)}
OF_TIMM: dict[str, dict[str, Any]] = {
    "regnetx_002": {},
    "regnety_002": {},
    "convnext_atto": SMALL_CONVNEXT,
    # Its blocks compute on tokens.
    "convnext_tiny": SMALL_CONVNEXT,
}


@pytest.mark.parametrize("name", OF_TIMM)
def test_networks_of_timm_are_one_program(name: str) -> None:
    network = moved(timm.create_model(name, num_classes=10, **OF_TIMM[name]))
    assert isinstance(deploy(network, backend="native"), NativeProgram)
    check(network, torch.randn(2, 3, 64, 96))


def test_a_network_with_average_pooling_in_its_shortcuts_is_native_in_parts() -> None:
    network = timm.create_model("resnet26t", num_classes=10).eval()
    assert not isinstance(deploy(network, backend="native"), NativeProgram)
    check(network, torch.randn(1, 3, 64, 64))


def small_convnext() -> nn.Module:
    widths = [(16, 24), (24, 32), (32, 40), (40, None)]
    settings = [torchvision.models.convnext.CNBlockConfig(*pair, num_layers=1) for pair in widths]
    return torchvision.models.convnext.ConvNeXt(settings, num_classes=10, stochastic_depth_prob=0.5)


OF_TORCHVISION: dict[str, Callable[..., nn.Module]] = {
    "convnext": small_convnext,
    "efficientnet": torchvision.models.efficientnet_b0,
    "mnasnet": torchvision.models.mnasnet0_5,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "mobilenet_v3": torchvision.models.mobilenet_v3_small,
    "regnet": torchvision.models.regnet_y_400mf,
    "resnet": torchvision.models.resnet18,
}


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_networks_of_torchvision_are_one_program(name: str) -> None:
    network = moved(OF_TORCHVISION[name]())
    assert isinstance(deploy(network, backend="native"), NativeProgram)
    check(network, torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("regnetx_002", "odconv"),
        ("convnext_atto", "dcd"),
        ("convnext_atto", "condconv"),
        ("convnext_atto", "kernel_warehouse"),
    ],
)
def test_converted_networks_are_one_program(name: str, family: str) -> None:
    network = convert(moved(timm.create_model(name, num_classes=10, **OF_TIMM[name])), family)
    assert isinstance(deploy(network.eval(), backend="native"), NativeProgram)
    check(trained(network, 0.1), torch.randn(1, 3, 64, 64))


class Module(nn.Module):
    """A module with this forward pass, of ``self`` and the input."""

    def __init__(self, forward: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.one = nn.Conv2d(8, 1, 1)
        self.factor = nn.Parameter(torch.rand(8, 1, 1))
        self.norm = nn.LayerNorm(8)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)
        self.relu = nn.ReLU(inplace=True)
        self.compute = forward

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        return self.compute(self, x)


def tokens(m: Any, x: Tensor) -> Tensor:
    y = m.norm(m.conv(x).permute(0, 2, 3, 1))
    return F.gelu(m.head(y)).permute(0, 3, 1, 2)


def vectors(m: Any, x: Tensor) -> Tensor:
    return m.head(m.norm(m.conv(x).mean((2, 3))))


WHOLE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a sum": lambda m, x: m.conv(x) + x,
    "a sum in the other order": lambda m, x: F.relu(torch.add(m.other(x), m.conv(x))),
    "a sum with a branch that is computed later": lambda m, x: m.relu(m.conv(m.relu(m.other(x))) + m.other(x)),
    "a factor": lambda m, x: m.factor * m.conv(x) + x,
    "a factor and a shortcut by method": lambda m, x: m.conv(x).mul(m.factor.reshape(1, -1, 1, 1)).add_(x),
    "tokens": tokens,
    "vectors": vectors,
    "a classifier": lambda m, x: m.head(torch.flatten(m.pool(m.conv(x)), 1)),
    "a classifier with dropout": lambda m, x: m.head(F.dropout(m.pool(m.conv(x)), training=False).flatten(1)),
}
PARTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a value before its activation": lambda m, x: m.other((y := m.conv(x)) + F.relu(y)),
    "a value behind an activation in place": lambda m, x: (y := m.conv(x), m.relu(y), m.other(y))[-1],
    "a sum with itself": lambda m, x: (y := m.conv(x)) + y,
    "a sum of values of different sizes": lambda m, x: m.conv(x) + m.other(m.pool(x)),
    "three terms": lambda m, x: m.conv(m.other(x)) + m.other(x) + x,
    "a sum with one channel": lambda m, x: m.conv(x) + m.one(x),
    "a sum of one channel": lambda m, x: m.one(m.conv(x)) + x,
    "a number": lambda m, x: m.conv(x) * 2,
    "a sum with a factor": lambda m, x: torch.add(m.conv(x), x, alpha=2),
    "a factor of each row": lambda m, x: m.conv(x) * torch.arange(8.0)[:, None],
    "a factor of a value that is read twice": lambda m, x: m.other((y := m.conv(x)) * m.factor) + m.conv(y),
    "an approximate activation": lambda m, x: F.gelu(m.conv(x), approximate="tanh"),
    "control flow": lambda m, x: m.conv(x) if x.sum() > 0 else m.other(x),
    "a size": lambda m, x: m.conv(x) / x.shape[-1],
    "an attribute": lambda m, x: setattr(m, "seen", x) or m.conv(x),
    "no layer of the input": lambda m, x: m.relu(x),
    "an average of a row": lambda m, x: m.conv(x).mean((3,), keepdim=True),
    "images as vectors": lambda m, x: m.conv(x).flatten(2),
    "another permutation": lambda m, x: m.conv(x).permute(0, 1, 3, 2),
    "active dropout of nothing": lambda m, x: F.dropout(m.conv(x), 0.0, training=True),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_modules(name: str) -> None:
    module = Module(WHOLE[name])
    assert isinstance(deploy(module.eval(), backend="native"), NativeProgram)
    check(module, torch.randn(2, 8, 8, 8))


@pytest.mark.parametrize("name", PARTS)
@torch.no_grad()
def test_other_modules_are_native_in_parts(name: str) -> None:
    module, x = Module(PARTS[name]).eval(), torch.randn(2, 8, 8, 8)
    native = deploy(module, backend="native")
    assert not isinstance(native, NativeProgram)
    assert isinstance(native.conv, NativeProgram)
    torch.testing.assert_close(native(x), module(x.clone()), rtol=1e-5, atol=1e-5)


def test_an_attribute_that_the_forward_pass_sets_is_as_before() -> None:
    module = Module(PARTS["an attribute"]).eval()
    native = deploy(module, backend="native")
    assert not hasattr(native, "seen")


@pytest.mark.parametrize("channels", [3, 16, 37])
@pytest.mark.parametrize("affine", [False, True])
def test_layer_norms(affine: bool, channels: int) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(5, channels, 1), nn.Linear(channels, 7)
            self.norm = nn.LayerNorm(channels, eps=1e-3, elementwise_affine=affine)

        def forward(self, x: Tensor) -> Tensor:
            return F.hardswish(self.last(F.silu(self.norm(self.first(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)

    network = moved(Normed()) if affine else Normed().eval()
    assert isinstance(deploy(network, backend="native"), NativeProgram)
    check(network, torch.randn(3, 5, 4, 13) + 2)


@pytest.mark.parametrize(
    "fields", [{"weight": -1}, {"weight": 10**6}, {"residual": 0}, {"in_channels": 3}, {"groups": 2}]
)
@torch.no_grad()
def test_damaged_norms_are_refused(fields: dict[str, int]) -> None:
    native = deploy(Module(tokens).eval(), backend="native")
    with pytest.raises(RuntimeError, match="damaged"):
        run_steps(native, torch.randn(1, 8, 6, 6), with_fields(native, 1, fields))
