"""`layer(x, context)`: kernels computed from a vector that is given from outside."""

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import (
    CondConv2d,
    DCDConv2d,
    DCDLinear,
    DYConv2d,
    FDConv2d,
    KernelWarehouseConv2d,
    KernelWarehouseLinear,
    batched_conv,
    convert,
    deploy,
    export_onnx,
    freeze,
)
from dynaconv.errors import ConversionError
from dynaconv.explain.coefficients import collect_coefficients
from dynaconv.explain.freezing import rank_layers
from dynaconv.families import KernelMixture2d
from dynaconv.families.condconv import reference_condconv
from dynaconv.families.dyconv import reference_dyconv
from dynaconv.measure.profile import profile
from dynaconv.testing.cases import enlarge
from dynaconv.testing.tolerance import assert_close, assert_close_to_scale
from tests.families.cases import CASES
from tests.helpers import LAYERS, assert_file_computes
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
    assert type(layer.config).from_dict(layer.config.to_dict()) == layer.config
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


@pytest.mark.parametrize("context_norm", [None, "layer", "running"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_deployed_form_and_an_export_take_the_context(
    kind: type[KernelMixture2d], context_norm: str | None
) -> None:
    layer, x, context = problem(kind, context_norm=context_norm)
    form = layer.deployed()
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

    def __init__(self, kind: Any = CondConv2d) -> None:
        super().__init__()
        self.first, self.second = (kind(4, 4, 3, padding=1, context_features=4) for _ in range(2))
        enlarge(self.first)
        enlarge(self.second)

    def forward(self, x: Tensor) -> Tensor:
        context = x.mean((2, 3))
        return self.second(self.first(x, context).relu(), context=context).mean((2, 3))


@pytest.mark.parametrize("family", [family for family in LAYERS if family != "fdconv"])
def test_networks_of_such_layers_are_traced_analysed_and_profiled(family: str) -> None:
    net, x = Routed(LAYERS[family]).double().eval(), torch.randn(9, 4, 6, 6, dtype=torch.float64)
    assert_close(torch.fx.symbolic_trace(net)(x), net(x))
    batches = [(x, torch.arange(9) % 4)]
    assert [layer.name for layer in collect_coefficients(net, batches, num_classes=4)] == ["first", "second"]
    assert {effect.name for effect in rank_layers(net, batches).layers} == {"first", "second"}
    assert profile(net, (4, 6, 6)).macs > 0
    frozen = freeze(net, "first", x)
    kernels = net.first.kernel(x, x.mean((2, 3)))
    assert_close(frozen.first.weight, kernels.mean(0))
    for network in (frozen, freeze(net, "second", x), pickle.loads(pickle.dumps(copy.deepcopy(frozen)))):
        assert network(x).shape == net(x).shape


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
    with refuses(ValueError, "context_features=5"):
        KernelWarehouseConv2d(6, 8, 3, context_features=5).double()(x)
    with refuses(ValueError, "context_size"):
        DCDConv2d(6, 8, 3, context_size=2, context_features=5)
    with refuses(ValueError, "context_features"):
        CondConv2d(6, 8, 3, context_features=0)
    with refuses(ConversionError, "context_features"):
        convert(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), "condconv", context_features=3)


class Conditioned(nn.Module):
    """A layer behind a batch norm and before one, conditioned on the network's second input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.layer = layer
        self.norm = nn.BatchNorm2d(12)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.norm(self.layer(self.stem(x).relu(), context))


@pytest.mark.export
@pytest.mark.parametrize("family", LAYERS)
def test_a_network_with_a_second_input_is_deployed_and_exported(family: str, tmp_path: Any) -> None:
    options = {"num_kernels": 4} if family == "fdconv" else {}
    layer = LAYERS[family](8, 12, 1 if family == "dcd" else 3, context_features=5, **options)
    net = Conditioned(layer).eval()
    enlarge(layer)
    deployed = deploy(net, example=(torch.randn(2, 3, 8, 8), torch.randn(2, 5)))
    assert isinstance(deployed.norm, nn.Identity)
    export_onnx(net, tmp_path / "net.onnx", (torch.randn(1, 3, 8, 8), torch.randn(1, 5)))
    assert_file_computes(tmp_path / "net.onnx", net, (3, 8, 8), (5,))
    for batch in (1, 2, 7):
        x, context = torch.randn(batch, 3, 8, 8), torch.randn(batch, 5)
        assert_close_to_scale(deployed(x, context), net(x, context), "float32")


@pytest.mark.parametrize("kind", [DCDLinear, KernelWarehouseLinear])
def test_all_rows_of_a_sample_have_the_matrix_of_its_context(kind: Any) -> None:
    layer = kind(6, 4, context_features=5).double().eval()
    enlarge(layer)
    x, context = torch.randn(3, 7, 6, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    want = torch.einsum("boi,bti->bto", layer.kernel(x, context), x) + layer.sample_bias(x, context)[:, None]
    form = layer.deployed()
    for algorithm in layer.algorithms:
        layer._config = dataclasses.replace(layer.config, algorithm=algorithm)
        assert_close(layer(x, context), want)
        form.algorithm = algorithm
        assert_close(form(x, context), want)
    assert_close(layer(x[:, 0], context), want[:, 0])
    for wrong in (context[:2], context[:, None]):
        with refuses(ValueError, "(B, 5)"):
            layer(x, wrong)
    start = kind.from_linear(linear := nn.Linear(6, 4, dtype=torch.float64), context_features=5)
    assert_close(start(x, context), linear(x))


def test_local_gates_of_fdconv_keep_reading_the_input() -> None:
    layer = FDConv2d(8, 6, 3, num_kernels=4, context_features=5).double().eval()
    enlarge(layer)
    x, context = torch.randn(2, 8, 5, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    assert_close(layer.coefficients(x, context), layer.coefficients(x + 1, context))
    assert not torch.allclose(
        layer.local_gates(x, context), layer.local_gates(x * torch.arange(8)[:, None, None], context)
    )
    without = FDConv2d(8, 6, 3, num_kernels=4, context_features=5, local_gate=None).double().eval()
    assert_close(without.kernel(x, context), without.kernel(x + 1, context))


def test_the_fused_training_step_takes_a_context() -> None:
    for kernel_size in (1, 3):
        layer = DCDConv2d(8, 12, kernel_size, context_features=5, algorithm="factored").double()
        enlarge(layer)
        x, context = CASES["dcd-pointwise"].images().requires_grad_(), torch.randn(3, 5, dtype=torch.float64)
        inputs = [x, context.requires_grad_(), *layer.parameters()]
        layer.eval()
        got = layer(x, context)
        kernels = layer.kernel(x, context)
        want = batched_conv(x, kernels, layer.bias)
        upstream = torch.randn_like(got)
        gradients = [torch.autograd.grad(out, inputs, upstream) for out in (got, want)]
        assert_close((got, *gradients[0]), (want, *gradients[1]))
