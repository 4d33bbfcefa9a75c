"""What tools around a network do with its dynamic layers: the right thing, or a clear error."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from dynaconv import DCDConv2d, DCDLinear, ODConv2d, deploy
from dynaconv.families import get_family
from tests.families.cases import CASES, IN_CHANNELS, algorithms, enlarge, make, randomise_norms
from tests.helpers import LAYERS, TOLERANCE
from tests.messages import refuses

# torch compiles its own formulas for forward-mode differentiation with the function it deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using padding='same':UserWarning", "ignore:`torch.jit.script` is deprecated:FutureWarning"
)


class Net(nn.Module):
    """A network with a branch, as feature extractors take apart."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.block = nn.Sequential(LAYERS[family](8, 8, 1), nn.ReLU())
        self.last = LAYERS[family](8, 4, 3, groups=2 if get_family(family).grouped else 1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), DCDLinear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        out: Tensor = self.head(self.last(self.block(x) + x))
        return out


def folded_as_ultralytics_does(conv: nn.Module, bn: nn.BatchNorm2d) -> nn.Module:
    def fuse_conv_and_bn(conv: Any, bn: nn.BatchNorm2d) -> nn.Module:
        conv.weight, conv.bias = nn.Parameter(conv.weight * 1.0), nn.Parameter(bn.running_mean)
        return conv.requires_grad_(False)

    return fuse_conv_and_bn(conv, bn)


def folded_in_place(conv: nn.Module, bn: nn.BatchNorm2d) -> nn.Module:
    def fuse(conv: Any, bn: nn.BatchNorm2d) -> nn.Module:
        conv.weight.data = conv.weight.data * 1.0
        conv.register_parameter("bias", nn.Parameter(bn.running_mean))
        return conv

    return fuse(conv, bn)


@pytest.mark.same_messages_for("family", "channels")
@pytest.mark.parametrize("channels", [4, 8, 12])
@pytest.mark.parametrize("fold", [fuse_conv_bn_eval, folded_as_ultralytics_does, folded_in_place])
@pytest.mark.parametrize("family", LAYERS)
def test_tools_that_fold_batch_norms_are_refused(family: str, fold: Callable[..., Any], channels: int) -> None:
    conv, bn = LAYERS[family](8, channels, 1, bias=False).eval(), nn.BatchNorm2d(channels).eval()
    with refuses(TypeError, layer=type(conv).__name__):
        fold(conv, bn)


def test_of_linear_layers_too() -> None:
    with refuses(TypeError, "fuse_linear_bn_eval"):
        fuse_linear_bn_eval(DCDLinear(4, 4).eval(), nn.BatchNorm1d(4).eval())


@pytest.mark.parametrize("family", LAYERS)
def test_weights_may_be_replaced_otherwise(family: str) -> None:
    layer = LAYERS[family](8, 8, 1)
    layer.weight = nn.Parameter(layer.weight.detach() * 2)
    layer.bias = None
    layer.load_state_dict(dict(layer.state_dict()), assign=True)
    assert layer(torch.randn(2, 8, 3, 3)).isfinite().all()


@pytest.mark.same_messages_for("family")
@pytest.mark.parametrize("family", LAYERS)
def test_torch_fx_records_a_layer_as_one_operation(family: str) -> None:
    network, x = Net(family).eval(), torch.randn(2, 3, 9, 8)
    traced = torch.fx.symbolic_trace(network)
    modules = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    assert modules >= {"block.0", "last", "head.2"}
    assert torch.equal(traced(x), network(x))
    with refuses(TypeError, layer=LAYERS[family].__name__):
        torch.fx.symbolic_trace(network.last)


@pytest.mark.parametrize("family", LAYERS)
def test_torchvisions_feature_extraction(family: str) -> None:
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    network, x = Net(family).eval(), torch.randn(2, 3, 9, 8)
    _, names = extraction.get_graph_node_names(network)
    assert names == ["x", "stem", "relu", "block.0", "block.1", "add", "last", "head.0", "head.1", "head.2"]
    features = extraction.create_feature_extractor(network, ["block.0", "last"])(x)
    inner = network.block[0](torch.relu(network.stem(x)))
    torch.testing.assert_close(features["block.0"], inner)
    assert features["last"].shape == (2, 4, 5, 4)


@pytest.mark.same_messages_for("kind")
@pytest.mark.parametrize("kind", [*LAYERS.values(), DCDLinear])
def test_torch_jit_script_is_refused_in_a_sentence(kind: Any) -> None:
    layer = kind(8, 8) if kind is DCDLinear else kind(8, 8, 1)
    with refuses(NotImplementedError, layer=kind.__name__):
        torch.jit.script(nn.Sequential(layer))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_torch_jit_trace_holds_for_images_of_other_shapes(case: str) -> None:
    layer = make(case, dtype=torch.float64).eval()
    traced = torch.jit.trace(layer, (torch.randn(2, IN_CHANNELS, 9, 7, dtype=torch.float64),))
    for batch, height, width in ((5, 9, 7), (1, 12, 10), (17, 20, 20)):
        x = torch.randn(batch, IN_CHANNELS, height, width, dtype=torch.float64)
        torch.testing.assert_close(traced(x), layer(x), **TOLERANCE["float64"])


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", CASES)
def test_forward_mode_differentiation(case: str, mode: bool) -> None:
    for algorithm in algorithms(case):
        if mode and CASES[case].all_arguments.get("norm") and algorithm == "kernel":
            continue
        layer = make(case, dtype=torch.float64, algorithm=algorithm).train(mode)
        randomise_norms(layer)
        twin = copy.deepcopy(layer)
        x, direction = torch.randn(2, 3, IN_CHANNELS, 5, 6, dtype=torch.float64)
        x.requires_grad_()
        with forward_ad.dual_level():
            got = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction))).tangent
        out = twin(x)
        upstream = torch.ones_like(out).requires_grad_()
        (gradient,) = torch.autograd.grad(out, x, upstream, create_graph=True)
        (want,) = torch.autograd.grad(gradient, upstream, direction)
        assert got is not None
        torch.testing.assert_close(got, want, **TOLERANCE["float64"])


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_gradients(case: str) -> None:
    """As gradient penalties take them; coefficients depend on the input too."""
    for algorithm in algorithms(case):
        layer = make(case, dtype=torch.float64, algorithm=algorithm).eval()
        randomise_norms(layer)
        x = torch.randn(2, IN_CHANNELS, 5, 6, dtype=torch.float64).requires_grad_()
        leaves = [x, *layer.parameters()]
        plain = torch.autograd.grad(layer(x).square().sum(), leaves)
        recorded = torch.autograd.grad(layer(x).square().sum(), leaves, create_graph=True)
        torch.testing.assert_close(recorded, plain, **TOLERANCE["float64"])
        direction = torch.randn_like(x)
        (second,) = torch.autograd.grad((recorded[0] * direction).sum(), x)
        moved = [(x + step * direction).detach().requires_grad_() for step in (1e-5, -1e-5)]
        ends = [torch.autograd.grad(layer(point).square().sum(), point)[0] for point in moved]
        numeric = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close(second, numeric, rtol=1e-3, atol=1e-4 * float(numeric.abs().max()))


@pytest.mark.same_messages_for("case")
@pytest.mark.parametrize("case", CASES)
def test_complex_numbers_are_refused(case: str) -> None:
    layer, x = make(case).eval(), torch.randn(2, IN_CHANNELS, 9, 7, dtype=torch.complex64)
    for call in (layer, layer.coefficients, layer.kernel):
        with refuses(ValueError, "complex64"):
            call(x)
    with refuses(ValueError, "complex128"):
        make(case, dtype=torch.complex128, device="meta")


def test_complex_numbers_are_refused_by_linear_layers() -> None:
    for call in (DCDLinear(4, 4), DCDLinear(4, 4).kernel, DCDLinear(4, 4).coefficients):
        with refuses(ValueError, "complex64"):
            call(torch.randn(2, 4, dtype=torch.complex64))
    with refuses(ValueError, "complex64"):
        DCDLinear(4, 4, dtype=torch.complex64)
    with refuses(TypeError, "complex64"):
        DCDConv2d.from_conv(nn.Conv2d(4, 4, 1, dtype=torch.complex64))


def in_threads(call: Callable[[Tensor], Tensor], inputs: list[Tensor], times: int) -> list[list[Tensor]]:
    def several(x: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [call(x) for _ in range(times)]

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(several, inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("case", [case for case in CASES if case.split("-", 1)[1] in ("pointwise", "grouped", "norm")])
def test_inference_in_several_threads(case: str, dtype: torch.dtype) -> None:
    layer = make(case).to(dtype).eval()
    randomise_norms(layer)
    before = copy.deepcopy(layer.state_dict())
    inputs = [torch.randn(2, IN_CHANNELS, 6, 5, dtype=dtype) for _ in range(8)]
    for call in (layer, layer.kernel, lambda x: layer.coefficients(x)[0]):
        with torch.no_grad():
            want = [call(x) for x in inputs]
        for results, expected in zip(in_threads(call, inputs, 20), want, strict=True):
            for result in results:
                torch.testing.assert_close(result, expected, rtol=0, atol=0)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("call", ["forward", "kernel", "coefficients"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_inference_writes_nothing_on_the_layer(case: str, dtype: torch.dtype, call: str, monkeypatch: Any) -> None:
    """Whatever a call changes for a moment, another thread could see."""
    layer = make(case).to(dtype).eval()
    x = torch.randn(2, IN_CHANNELS, 9, 7, dtype=dtype)

    def refuse(*args: Any) -> None:
        raise AssertionError(f"an attribute of {type(args[0]).__name__} is set: {args[1:]}")

    parts = list(layer.modules())
    state = [{**vars(part), **part._parameters, **part._buffers} for part in parts]
    monkeypatch.setattr(nn.Module, "__setattr__", refuse)
    monkeypatch.setattr("torch.func.functional_call", refuse)
    with torch.no_grad():
        getattr(layer, call)(x)
    for part, before in zip(parts, state, strict=True):
        now = {**vars(part), **part._parameters, **part._buffers}
        assert now.keys() == before.keys()
        assert all(now[name] is before[name] for name in now), type(part).__name__


def test_deployed_odconv_in_threads() -> None:
    network = nn.Sequential(ODConv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)).eval()
    enlarge(network[0])
    deployed = deploy(network)
    inputs = [torch.randn(2, 8, 6, 5) for _ in range(8)]
    for results, x in zip(in_threads(deployed, inputs, 20), inputs, strict=True):
        for result in results:
            torch.testing.assert_close(result, network(x), **TOLERANCE["float32"])
