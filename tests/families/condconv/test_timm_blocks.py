"""timm's CondConv networks with our layers: the same weights, the same outputs."""

from typing import Any

import pytest
import timm
import torch
from timm.models._efficientnet_blocks import CondConvResidual
from torch import Tensor, nn

import dynaconv
from dynaconv.errors import ConversionError
from dynaconv.families import CondConv2d
from dynaconv.families.condconv.timm_blocks import adopt_condconv
from dynaconv.testing.tolerance import assert_close, assert_close_to_scale
from tests.messages import refuses


def block(**options: Any) -> nn.Module:
    """A block of timm in float64 with a routing that varies."""
    arguments: dict[str, Any] = {"dw_kernel_size": 5, "exp_ratio": 2.0, "act_layer": nn.SiLU, "num_experts": 3}
    made = CondConvResidual(6, **{"out_chs": 6, **arguments, **options}).double()
    nn.init.normal_(made.routing_fn.weight)
    return made


def network(name: str, **options: Any) -> nn.Module:
    """A network of timm in eval mode, with random statistics of its norms."""
    net: nn.Module = timm.create_model(name, num_classes=7, **options).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def images(batch: int = 3, channels: int = 6) -> Tensor:
    return torch.randn(batch, channels, 9, 8, dtype=torch.float64) + torch.randn(batch, channels, 1, 1).double()


@pytest.mark.parametrize(
    "options",
    [{}, {"out_chs": 10}, {"stride": 2, "pad_type": "same"}, {"stride": 2, "pad_type": "same", "dw_kernel_size": 4}],
    ids=["skip", "wider", "same padding", "even kernel"],
)
def test_a_block_agrees_in_value_and_gradient(options: dict[str, Any]) -> None:
    theirs = block(**options)
    ours, x = adopt_condconv(theirs), images().requires_grad_()
    assert ours is not None
    for training in (True, False):
        want, got = theirs.train(training)(x), ours.train(training)(x)
        upstream = torch.randn_like(want)
        kernels = [getattr(theirs, name).weight for name in ("conv_pw", "conv_dw", "conv_pwl")]
        router = [theirs.routing_fn.weight, theirs.routing_fn.bias]
        wanted = torch.autograd.grad(want, [x, *kernels, *router], upstream)
        layers = [ours.get_submodule(name) for name in ("conv_pw", "conv_dw", "conv_pwl")]
        leaves = [layer.weight for layer in layers] + [p for layer in layers for p in layer.branch.parameters()]
        found = torch.autograd.grad(got, [x, *leaves], upstream)
        assert_close(got, want)
        assert_close(found[0], wanted[0])
        assert_close([gradient.flatten(1) for gradient in found[1:4]], list(wanted[1:4]))
        # The routers are copies: the gradient of timm's is their sum.
        assert_close((found[4] + found[6] + found[8], found[5] + found[7] + found[9]), wanted[4:])


def test_other_modules_are_left_alone() -> None:
    assert adopt_condconv(nn.Conv2d(3, 3, 1)) is None
    assert adopt_condconv(timm.layers.CondConv2d(4, 4)) is None


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_cc_b0_4e",
        pytest.param("tf_efficientnet_cc_b0_8e", marks=pytest.mark.slow),
        pytest.param("tf_efficientnet_cc_b1_8e", marks=pytest.mark.slow),
    ],
)
def test_a_network_is_taken_over_exactly(name: str) -> None:
    net, x = network(name), torch.randn(2, 3, 45, 32, dtype=torch.float64)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    plan = dynaconv.plan_conversion(net, "condconv")
    assert plan.params == sum(parameter.numel() for parameter in net.parameters())
    torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)
    ours = dynaconv.convert(net, "condconv")
    layers = [module for module in ours.modules() if isinstance(module, CondConv2d)]
    blocks = sum(isinstance(module, CondConvResidual) for module in net.modules())
    assert len(layers) == 3 * blocks == sum(len(module.layers) for module in plan.adopted)
    assert plan.converted_params == sum(parameter.numel() for parameter in ours.parameters())
    assert f"{len(layers)} layers" in str(plan)
    with torch.no_grad():
        want = net(x)
        assert_close_to_scale(ours(x), want, "float64")
        assert_close_to_scale(dynaconv.deploy(ours, (2, 3, 45, 32))(x), want, "float64")
        again = dynaconv.apply_conversion(network(name), dynaconv.conversion_of(ours))
        again.load_state_dict(ours.state_dict())
        assert torch.equal(again(x), ours(x))
        frozen = dynaconv.freeze(ours, "blocks.6.*", x)
        assert not any(isinstance(module, CondConv2d) for module in frozen.get_submodule("blocks.6").modules())
        frozen(x)


def test_what_does_not_go_together_is_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Conv2d(3, 6, 3), block()

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.stem(x))  # type: ignore[no-any-return]

    net = Net().double().eval()
    for options in ({"include": "stem"}, {"num_experts": 2}, {"last_stages": 1}, {"kinds": "pointwise"}):
        with refuses(ConversionError, "another package"):
            dynaconv.convert(net, "condconv", **options)
    x = images(2, 3)
    ours = dynaconv.convert(net, "condconv")
    assert_close(ours(x), net(x))
    assert_close(dynaconv.convert(ours, "dcd", include="stem", again=True)(x), net(x))
    # Other families do not know timm's blocks.
    other = dynaconv.convert(net, "dyconv", include="stem")
    assert type(other.block) is CondConvResidual
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(ours, (x,), dynamic_shapes=({0: batch},)).module()
    assert_close(program(x[:1]), net(x[:1]))
