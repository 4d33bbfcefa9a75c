"""`layer(x, context)`: kernels computed from a vector that is given from outside."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import CondConv2d, DCDConv2d, DYConv2d, KernelWarehouseConv2d, convert, freeze
from dynaconv.errors import ConversionError
from dynaconv.explain.coefficients import collect_coefficients
from dynaconv.explain.freezing import rank_layers
from dynaconv.families import KernelMixture2d
from dynaconv.families.condconv import reference_condconv
from dynaconv.families.dyconv import reference_dyconv
from dynaconv.measure.profile import profile
from dynaconv.testing.cases import enlarge
from dynaconv.testing.tolerance import assert_close
from tests.messages import refuses

KINDS: list[type[KernelMixture2d]] = [CondConv2d, DYConv2d]


def problem(kind: type[KernelMixture2d], **options: Any) -> tuple[KernelMixture2d, Tensor, Tensor]:
    """A layer with a context of 5 numbers, an input and a context."""
    layer = kind(6, 8, 3, padding=1, groups=2, context_features=5, **options)
    enlarge(layer)
    x, context = torch.randn(4, 6, 7, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    return layer.double().eval(), x.requires_grad_(), context.requires_grad_()


@pytest.mark.parametrize("algorithm", ["kernel", "mixed", "grouped", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_the_reference(kind: type[KernelMixture2d], algorithm: str) -> None:
    layer, x, context = problem(kind, algorithm=algorithm)
    logits = layer.branch(context) if kind is CondConv2d else layer.branch(context)["attention"]
    assert_close(layer.logits(x, context), logits)
    arguments = (x, logits, layer.weight, layer.bias)
    if kind is CondConv2d:
        want = reference_condconv(*arguments, layer.geometry)
    else:
        want = reference_dyconv(*arguments, torch.tensor(1.0), layer.geometry)
    got, inputs = layer(x, context), [x, context, *layer.parameters()]
    upstream = torch.randn_like(got)
    gradients = [torch.autograd.grad(out, inputs, upstream) for out in (got, want)]
    assert_close((got, *gradients[0]), (want, *gradients[1]))
    kernels, biases = layer.kernel(x, context), layer.sample_bias(x, context)
    assert biases is not None
    each = [nn.functional.conv2d(x[b : b + 1], kernels[b], biases[b], 1, 1, 1, 2) for b in range(4)]
    assert_close(got, torch.cat(each))


@pytest.mark.parametrize("kind", KINDS)
def test_the_averaged_input_as_context_is_the_layer_without_one(kind: type[KernelMixture2d]) -> None:
    own = kind(6, 8, 3, context_norm="layer").double()
    enlarge(own)
    layer = kind(6, 8, 3, context_norm="layer", context_features=6).double()
    layer.load_state_dict(own.state_dict())
    x = torch.randn(4, 6, 7, 5, dtype=torch.float64)
    assert_close(layer(x, x.mean((2, 3))), own(x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_neutral_start_does_not_depend_on_the_context(kind: type[KernelMixture2d]) -> None:
    conv = nn.Conv2d(6, 8, 3, dtype=torch.float64)
    layer = kind.from_conv(conv, context_features=5)
    assert type(layer.config).from_dict(layer.config.to_dict()) == layer.config
    x = torch.randn(4, 6, 7, 5, dtype=torch.float64)
    for scale in (0, 1, 100):
        assert_close(layer(x, torch.full((4, 5), scale, dtype=torch.float64)), conv(x))


@pytest.mark.parametrize("context_norm", [None, "layer", "running"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_deployed_form_and_an_export_take_the_context(
    kind: type[KernelMixture2d], context_norm: str | None
) -> None:
    layer, x, context = problem(kind, context_norm=context_norm)
    form = layer.deployed()
    assert_close(form(x, context), layer(x, context))
    assert_close(copy.deepcopy(form)(x, context), layer(x, context))
    batch = torch.export.Dim("batch", min=1, max=64)
    for module in (layer, form):
        shapes = ({0: batch}, {0: batch})
        program = torch.export.export(module, (x.detach(), context.detach()), dynamic_shapes=shapes).module()
        for size in (1, 2, 4):
            assert_close(program(x[:size], context[:size]), layer(x[:size], context[:size]))
    with refuses(ValueError, "context_features=5"):
        form(x)


class Routed(nn.Module):
    """Two layers that read one context."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (CondConv2d(4, 4, 3, padding=1, context_features=4) for _ in range(2))
        enlarge(self.first)
        enlarge(self.second)

    def forward(self, x: Tensor) -> Tensor:
        context = x.mean((2, 3))
        return self.second(self.first(x, context).relu(), context).mean((2, 3))


def test_networks_of_such_layers_are_traced_analysed_and_profiled() -> None:
    net, x = Routed().double().eval(), torch.randn(9, 4, 6, 6, dtype=torch.float64)
    assert_close(torch.fx.symbolic_trace(net)(x), net(x))
    batches = [(x, torch.arange(9) % 4)]
    assert [layer.name for layer in collect_coefficients(net, batches, num_classes=4)] == ["first", "second"]
    assert {effect.name for effect in rank_layers(net, batches).layers} == {"first", "second"}
    assert profile(net, (4, 6, 6)).macs > 0
    frozen = freeze(net, "first", x)
    kernels = net.first.kernel(x, x.mean((2, 3)))
    assert_close(frozen.first.weight, kernels.mean(0))


def test_mistakes_are_refused() -> None:
    layer, x, context = problem(CondConv2d)
    with refuses(ValueError, "context_features=5"):
        layer(x)
    for wrong in (context[:, :3], context[:2], context[0], context[..., None]):
        for call in (layer, layer.kernel, layer.coefficients):
            with refuses(ValueError, "(B, 5)"):
                call(x, wrong)
    with refuses(ValueError, "context_features=5"):
        CondConv2d(6, 8, 3).double()(x, context)
    for own in (DCDConv2d(6, 8, 3), KernelWarehouseConv2d(6, 8, 3)):
        with refuses(ValueError, "leave the context out"):
            own.double()(x, context)
    with refuses(TypeError, "context_features"):
        KernelWarehouseConv2d(6, 8, 3, context_features=5)  # type: ignore[call-arg]
    with refuses(ValueError, "context_features"):
        CondConv2d(6, 8, 3, context_features=0)
    with refuses(ConversionError, "context_features"):
        convert(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), "condconv", context_features=3)
