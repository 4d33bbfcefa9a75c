"""What was set on the instance of a convolution, or overridden by its class: kept, or refused with the reason."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv import DCDConv2d, DCDLinear, convert, deploy, plan_conversion, revert
from dynaconv.conversion import apply_conversion
from dynaconv.errors import ConversionError
from tests.helpers import LAYERS
from tests.messages import refuses


def replaced_forward(conv: nn.Conv2d) -> None:
    """As accelerate's `add_hook_to_module` does."""
    old = conv.forward
    conv.forward = functools.update_wrapper(lambda x: 2 * old(x), old)  # type: ignore[assignment]


def replaced_conv_forward(conv: nn.Conv2d) -> None:
    """As patches of diffusers do, for images that tile."""

    def tiling(self: nn.Conv2d, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(F.pad(input, (1, 1, 1, 1), mode="circular"), weight, bias)

    conv._conv_forward = tiling.__get__(conv, nn.Conv2d)  # type: ignore[method-assign]


def changed_padding(conv: nn.Conv2d) -> None:
    """Where the padding is not of zeros, torch goes on with what the constructor worked out."""
    conv.padding_mode = "reflect"
    conv.padding = (2, 2)


def overriding(method: str) -> Callable[[nn.Conv2d], None]:
    def change(conv: nn.Conv2d) -> None:
        original = getattr(nn.Conv2d, method)
        conv.__class__ = type("Own", (nn.Conv2d,), {method: lambda self, *args: original(self, *args) * 2})

    return change


def weight_norm(conv: nn.Conv2d) -> None:
    nn.utils.parametrizations.weight_norm(conv)


def subclassed_weight(conv: nn.Conv2d) -> None:
    class Own(nn.Parameter):
        pass

    conv.weight = Own(conv.weight.data)


CHANGES: dict[str, Callable[[nn.Conv2d], None]] = {
    "forward": replaced_forward,
    "_conv_forward": replaced_conv_forward,
    "padding": changed_padding,
    "class forward": overriding("forward"),
    "class _conv_forward": overriding("_conv_forward"),
    "class __call__": overriding("__call__"),
    "class _call_impl": overriding("_call_impl"),
    "weight norm": weight_norm,
    "weight": subclassed_weight,
}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)).eval()


@pytest.mark.same_messages_for("family")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("family", LAYERS)
def test_what_a_dynamic_layer_would_drop_is_refused(family: str, change: str) -> None:
    model = network()
    CHANGES[change](model[1])
    x = torch.randn(2, 3, 6, 7)
    before = model(x)
    plan = plan_conversion(model, family, min_channels=1)
    assert [layer.name for layer in plan.converted] == ["2"]
    torch.testing.assert_close(plan.apply(model)(x), before, rtol=1e-5, atol=1e-5)
    layer = LAYERS[family].__name__
    with refuses(ConversionError, "'1'"):
        convert(model, family, include="1")
    with refuses(TypeError, layer=layer):
        LAYERS[family].from_conv(model[1])
    with refuses(ConversionError, "'1'", layer=layer):
        apply_conversion(model, {"1": {"family": family, "hyperparameters": {}}})
    assert type(model[1]) is not LAYERS[family]


@pytest.mark.parametrize("change", ["forward", "_conv_forward", "class __call__"])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_deployment_keeps_what_was_replaced(backend: str, change: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).eval()
    model[1].running_mean.normal_()
    CHANGES[change](model[0])
    x = torch.randn(2, 3, 6, 7)
    with torch.no_grad():
        want = model(x)
        torch.testing.assert_close(deploy(model, backend=backend)(x), want, rtol=1e-5, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_deployment_keeps_the_forward_of_a_dynamic_layer(backend: str) -> None:
    model = nn.Sequential(DCDConv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU()).eval()
    model[1].running_mean.normal_()
    old = model[0].forward
    model[0].forward = lambda x: 2 * old(x)
    x = torch.randn(2, 3, 6, 7)
    with torch.no_grad():
        want = model(x)
        torch.testing.assert_close(deploy(model, backend=backend)(x), want, rtol=1e-5, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", LAYERS)
def test_hooks_and_attributes_come_along(family: str) -> None:
    conv = nn.Conv2d(3, 8, 3)
    conv.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    conv.register_forward_hook(lambda module, args, out: out + 1)
    conv.note = "kept"  # type: ignore[assignment]
    x = torch.randn(2, 3, 6, 7)
    layer = LAYERS[family].from_conv(conv)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    assert layer.note == "kept"
    static = layer.static_conv()
    torch.testing.assert_close(static(x), conv(x), rtol=1e-5, atol=1e-5)
    assert static.note == "kept"


def test_linear_layers_alike() -> None:
    linear = nn.Linear(8, 4)
    linear.register_forward_hook(lambda module, args, out: out + 1)
    x = torch.randn(2, 8)
    torch.testing.assert_close(DCDLinear.from_linear(linear)(x), linear(x), rtol=1e-5, atol=1e-5)
    old = linear.forward
    linear.forward = lambda x: 2 * old(x)  # type: ignore[assignment, method-assign]
    with refuses(TypeError, "from_linear"):
        DCDLinear.from_linear(linear)


@pytest.mark.parametrize("padding", ["same", "valid", 1, (2, 0)])
@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate", "zeros"])
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_usual_padding_is_no_reason(mode: Any, padding: Any) -> None:
    conv = nn.Conv2d(3, 4, (3, 4), padding=padding, dilation=(2, 1), padding_mode=mode)
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(DCDConv2d.from_conv(conv)(x), conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Initializing zero-element:UserWarning", "ignore:Lazy modules are a new:UserWarning")
def test_lazy_modules_are_refused() -> None:
    for lazy in (nn.LazyConv2d(8, 3), nn.LazyLinear(8), nn.LazyBatchNorm2d()):
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), lazy)
        with refuses(ConversionError, "2.weight"):
            convert(model)
    with refuses(TypeError):
        DCDConv2d.from_conv(nn.LazyConv2d(8, 3))


def test_a_copy_keeps_its_own_replaced_method() -> None:
    """What stays static in a copied network still works there, not in the original."""
    model = network()
    model[0].forward = functools.partial(type(model[0]).forward, model[0])
    dynamic = convert(model, include="2")
    assert dynamic[0].forward.args[0] is dynamic[0]
    assert revert(copy.deepcopy(dynamic))[0].forward.args[0] is not model[0]
