"""What every dynamic convolution promises, over every family and form."""

import copy
import io
import pickle
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families import DynamicConv2d
from dynaconv.ops import pool_context
from tests.families.cases import CASES, FAMILY_CASES, IN_CHANNELS, algorithms, make, neutral, prepare, static_twin
from tests.helpers import LAYERS, TOLERANCE, value_and_gradients

# torch warns, once, that it may copy the input for "same" padding with even kernels; that is one of the cases.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
ATTRIBUTES = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
WITH_ALGORITHM = [(name, algorithm) for name in CASES for algorithm in algorithms(name)]
# Exporting and compiling take seconds each, so not every geometry of every family goes through all of it.
EXPORTED = [name for name in CASES if name.endswith(("-pointwise-stride", "-square", "-depthwise"))]
EXPORTED += ["dcd-channel", "dcd-joint", "dcd-norm-channel"]
TRACED = [name for name in CASES if name.startswith("dcd-") or name in EXPORTED or name.endswith("-grouped")]
SHAPES = {
    "batches": [(1, (9, 7)), (7, (9, 7)), (32, (9, 7))],
    "sizes": [(3, (9, 7)), (3, (12, 10)), (3, (17, 13))],
    "both": [(1, (9, 7)), (5, (12, 10)), (32, (17, 13))],
}
EXPORTED_BY = [(name, algorithm) for name in EXPORTED for algorithm in algorithms(name) if algorithm != "auto"]


def uses_batch_statistics(layer: DynamicConv2d) -> bool:
    """Whether a kernel of one sample does not exist in train mode."""
    return "batch" in (getattr(layer.config, "norm", None), layer.config.context_norm)


def ready(name: str, **overrides: object) -> DynamicConv2d:
    """A float64 layer in eval mode, in which every form has a kernel."""
    layer = make(name, dtype=torch.float64, **overrides)
    prepare(layer, torch.rand)
    return layer.eval()


def images(batch: int = 3, size: tuple[int, int] = (9, 7), dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, IN_CHANNELS, *size, dtype=dtype)


def assert_close_to_scale(got: Tensor, want: Tensor, tolerance: str) -> None:
    """Compare after dividing by the largest magnitude, where sums cancel."""
    scale = want.abs().max().clamp(min=torch.finfo(want.dtype).tiny)
    torch.testing.assert_close(got / scale, want / scale, **TOLERANCE[tolerance])


def convolve_each(layer: DynamicConv2d, x: Tensor) -> Tensor:
    """Each sample of ``x`` by `torch.nn.functional.conv2d` with its own kernel and bias."""
    kernels, biases = layer.kernel(x), layer.sample_bias(x)
    static = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.bias is not None,
        layer.padding_mode,
        dtype=x.dtype,
    )
    outs = []
    for sample in range(x.shape[0]):
        weights = {"weight": kernels[sample]} | ({} if biases is None else {"bias": biases[sample]})
        if biases is not None and static.bias is None:
            out = torch.func.functional_call(static, {"weight": kernels[sample]}, (x[sample : sample + 1],))
            out = out + biases[sample][:, None, None]
        else:
            out = torch.func.functional_call(static, weights, (x[sample : sample + 1],))
        outs.append(out)
    return torch.cat(outs)


@pytest.mark.parametrize(("name", "algorithm"), WITH_ALGORITHM)
def test_forward_is_convolution_with_each_samples_kernel(name: str, algorithm: str) -> None:
    layer, x = ready(name, algorithm=algorithm), images().requires_grad_()
    leaves = [x, *layer.parameters()]
    want = value_and_gradients(convolve_each(layer, x), leaves)
    torch.testing.assert_close(value_and_gradients(layer(x), leaves), want, **TOLERANCE["float64"])


@pytest.mark.parametrize("name", [name for name in CASES if not uses_batch_statistics(make(name, device="meta"))])
def test_kernel_exists_in_train_mode(name: str) -> None:
    layer, x = ready(name).train(), images()
    # Before the forward pass, which may move running statistics.
    want = convolve_each(layer, x)
    torch.testing.assert_close(layer(x), want, **TOLERANCE["float64"])


@pytest.mark.parametrize(("name", "algorithm"), WITH_ALGORITHM)
def test_batch_equals_single_samples(name: str, algorithm: str) -> None:
    layer, x = ready(name, algorithm=algorithm), images()
    each = torch.cat([layer(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(layer(x), each, **TOLERANCE["float64"])


@pytest.mark.parametrize("name", CASES)
def test_shape_and_attributes_are_those_of_conv2d(name: str) -> None:
    layer, static = make(name), static_twin(name)
    assert layer(images(dtype=torch.float32)).shape == static(images(dtype=torch.float32)).shape
    for attribute in ATTRIBUTES:
        assert getattr(layer, attribute) == getattr(static, attribute), attribute
    # A mixture has its kernels stacked in front.
    assert layer.weight.shape[-4:] == static.weight.shape
    assert set(static.state_dict()) <= set(layer.state_dict())


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    layer = make(name).train()
    prepare(layer, torch.rand)
    layer(images(dtype=torch.float32)).square().sum().backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", CASES)
def test_neutral_start_computes_the_static_convolution(name: str) -> None:
    conv = static_twin(name, dtype=torch.float64)
    conv.weight.requires_grad_(False)
    for training in (True, False):
        static = conv.train(training)
        layer = neutral(name, static)
        assert layer.training == static.training
        assert not layer.weight.requires_grad
        x = images()
        torch.testing.assert_close(layer(x), static(x), **TOLERANCE["float64"])


@pytest.mark.parametrize("name", CASES)
def test_neutral_start_can_move(name: str) -> None:
    layer = neutral(name, static_twin(name))
    layer(images(dtype=torch.float32)).square().sum().backward()
    moved = {key.split(".")[0] for key, p in layer.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved & {"branch", "p"}


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", [n for n in CASES if "reflect" not in n])
def test_one_sample_of_one_pixel(name: str, mode: bool) -> None:
    layer = make(name).train(mode)
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    padded = isinstance(layer.padding, str) or all(2 * p >= r - 1 for p, r in zip(layer.padding, reach, strict=True))
    size = (1, 1) if padded else (reach[0], reach[1])
    out = layer(images(1, size, torch.float32))
    assert out.isfinite().all()
    out.sum().backward()


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", CASES)
def test_channels_last_gives_the_same(name: str, mode: bool) -> None:
    layer, x = ready(name).train(mode), images()
    want = copy.deepcopy(layer)(x)
    got = layer.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got, want, **TOLERANCE["float64"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", CASES)
def test_autocast_is_close_and_finite(name: str, mode: bool, dtype: str) -> None:
    layer = make(name).train(mode)
    prepare(layer, torch.rand)
    x = images(4, dtype=torch.float32)
    want = copy.deepcopy(layer)(x)
    with torch.autocast("cpu", getattr(torch, dtype)):
        out, coefficients = layer(x), layer.coefficients(x)
    assert out.dtype == getattr(torch, dtype)
    assert all(part.dtype == torch.float32 for part in coefficients if part is not None)
    assert_close_to_scale(out.float(), want, dtype)
    out.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("size", [1, 2])
def test_context_is_summed_in_float32(size: int) -> None:
    x = torch.rand(2, IN_CHANNELS, 33, 47).half()
    context = pool_context(x, size, torch.float32)
    assert context.dtype == torch.float32
    want = F.adaptive_avg_pool2d(x.double(), size).flatten(1)
    torch.testing.assert_close(context.double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_layer_of_another_dtype(name: str, dtype: torch.dtype) -> None:
    layer, x = make(name), images(dtype=torch.float32)
    want = copy.deepcopy(layer).eval()(x)
    got = layer.to(dtype).eval()(x.to(dtype))
    assert got.dtype == dtype
    assert_close_to_scale(got.float(), want, "float32" if dtype == torch.float64 else str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("name", CASES)
def test_meta_device(name: str) -> None:
    layer = make(name, device="meta")
    assert layer(torch.empty(2, IN_CHANNELS, 9, 7, device="meta")).device.type == "meta"
    assert layer.eval().kernel(torch.empty(2, IN_CHANNELS, 9, 7, device="meta")).shape[0] == 2


@pytest.mark.parametrize("name", CASES)
def test_copies_and_state(name: str) -> None:
    layer, x = ready(name), images()
    want = layer(x)
    fresh = make(name, dtype=torch.float64).eval()
    fresh.load_state_dict(layer.state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        assert torch.equal(other(x), want)
    doubled = {key: 2 * value for key, value in layer.named_parameters()}
    assert not torch.equal(torch.func.functional_call(layer, doubled, (x,)), want)


@pytest.mark.parametrize("name", CASES)
def test_empty_batch(name: str) -> None:
    for algorithm in algorithms(name):
        layer = ready(name, algorithm=algorithm)
        assert layer(images(0)).shape == (0, *layer(images(1)).shape[1:])


@pytest.mark.parametrize("name", TRACED)
def test_export_keeps_the_batch_free(name: str) -> None:
    layer = ready(name)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (images(3),), dynamic_shapes=({0: batch},)).module()
    for size in (1, 2, 5):
        x = images(size)
        torch.testing.assert_close(program(x), layer(x), **TOLERANCE["float64"])


@pytest.mark.parametrize(("name", "algorithm"), EXPORTED_BY)
def test_export_of_a_named_algorithm_keeps_the_batch_free(name: str, algorithm: str) -> None:
    layer = ready(name, algorithm=algorithm)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (images(3),), dynamic_shapes=({0: batch},)).module()
    for size in (1, 4):
        x = images(size)
        torch.testing.assert_close(program(x), layer(x), **TOLERANCE["float64"])


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", TRACED)
def test_compiles_to_two_graphs_at_most(name: str, mode: bool) -> None:
    check_compiled(name, mode, "both", "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "algorithm"), [(name, choice) for name in CASES for choice in algorithms(name)])
def test_every_algorithm_compiles_to_two_graphs_at_most(
    name: str, algorithm: str, mode: bool, shapes: str, backend: str
) -> None:
    if algorithm == "kernel" and mode and uses_batch_statistics(make(name, device="meta")):
        pytest.skip("with batch statistics there is no kernel of one sample")
    check_compiled(name, mode, shapes, backend, algorithm=algorithm)


def check_compiled(name: str, mode: bool, shapes: str, backend: str, **overrides: str) -> None:
    """Compare a compiled layer with the same layer in eager mode, over images of several shapes, and count graphs."""
    torch.compiler.reset()
    layer = ready(name, **overrides).train(mode)
    twin, stats = copy.deepcopy(layer), torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for batch, size in SHAPES[shapes]:
        # In float64, because the gradient through a batch norm over three contexts cancels to 1e-3 in float32.
        # A batch norm over contexts needs two of them in train mode.
        x = images(max(batch, 1 + uses_batch_statistics(layer)), size)
        if not mode:
            with torch.no_grad():
                assert_close_to_scale(compiled(x), twin(x), "float64")
            continue
        x.requires_grad_()
        want = value_and_gradients(twin(x), [x, *twin.parameters()])
        got = value_and_gradients(compiled(x), [x, *layer.parameters()])
        for one, other in zip(got, want, strict=True):
            assert_close_to_scale(one, other, "float64")
    # The first is for the first shape alone, the second for all others. Inductor compiles the gradient of any
    # convolution, also a static one, for one size alone.
    static_sizes = backend == "inductor" and mode and shapes != "batches"
    assert stats["unique_graphs"] - before <= (len(SHAPES[shapes]) if static_sizes else 2)


@pytest.mark.parametrize("name", CASES)
def test_a_static_state_dict_loads_through_the_key_weight(name: str) -> None:
    static, x = static_twin(name, dtype=torch.float64), images()
    layer = make(name, dtype=torch.float64).eval()
    missing, unexpected = layer.load_state_dict(static.state_dict(), strict=False)
    assert not unexpected
    assert not {"weight", "bias"} & set(missing)
    # Neutral coefficients then give the static layer; without them the dynamic part goes on as it was.
    layer._neutralise()
    torch.testing.assert_close(layer(x), static(x), **TOLERANCE["float64"])


@pytest.mark.parametrize("assign", [True, False], ids=["assign", "copy"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter:UserWarning")
def test_a_static_state_dict_loads_into_a_layer_on_meta(name: str, assign: bool) -> None:
    static, x = static_twin(name), images(dtype=torch.float32)
    layer = make(name, device="meta").eval()
    missing, unexpected = layer.load_state_dict(static.state_dict(), strict=False, assign=assign)
    assert not unexpected
    assert not {"weight", "bias"} & set(missing)
    assert layer.weight.is_meta != assign
    if not assign:
        return
    # The rest gets its numbers as it would anywhere.
    weight, bias = layer.weight, layer.bias
    layer.weight, layer.bias = make(name).weight, make(name).bias
    layer.to_empty(device="cpu").reset_parameters()
    layer.weight, layer.bias = weight, bias
    layer._neutralise()
    torch.testing.assert_close(layer(x), static(x), **TOLERANCE["float32"])
    if layer.weight.dim() == 5 and len(layer.weight) > 1:
        assert layer.weight.std(0).min() > 0
    half = make(name, device="meta")
    half.load_state_dict(static.half().state_dict(), strict=False, assign=True)
    assert half.weight.dtype == torch.float16


@pytest.mark.parametrize("name", CASES)
def test_looking_at_a_layer_leaves_it_as_it_was(name: str) -> None:
    layer, x = ready(name).train(), images()
    before = copy.deepcopy(layer.state_dict())
    layer.coefficients(x)
    if not uses_batch_statistics(layer):
        layer.kernel(x)
        layer.sample_bias(x)
    after = layer.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", CASES)
def test_costs_are_given_for_every_algorithm(name: str) -> None:
    layer = make(name, device="meta")
    costs = layer.algorithm_costs((2, IN_CHANNELS, 9, 7))
    assert tuple(costs) == layer.algorithms
    assert all(cost.multiply_adds > 0 and cost.moved >= 0 and cost.calls > 0 for cost in costs.values())


def test_an_unknown_algorithm_is_refused() -> None:
    for family in LAYERS:
        with pytest.raises(ValueError, match="algorithm must be one of 'auto', 'kernel'"):
            LAYERS[family](4, 4, 1, algorithm="fast")


def test_every_family_is_here() -> None:
    assert FAMILY_CASES.keys() == LAYERS.keys()
    names = ("pointwise", "depthwise", "grouped")
    assert all(name in cases for cases in FAMILY_CASES.values() for name in names)


def test_kernels_differ_between_inputs() -> None:
    for name in CASES:
        kernels = ready(name).kernel(images())
        assert any(not torch.allclose(a, b) for a, b in pairwise(kernels)), name


def test_padding_equals_functional_padding() -> None:
    layer = ready("dcd-channel-even")
    x = images()
    # "same" puts the odd pixel to the right and below, as torch does.
    padded = F.pad(x, (1, 2, 0, 1))
    kernels = layer.kernel(x)
    want = torch.cat([F.conv2d(padded[i : i + 1], kernels[i], layer.bias) for i in range(3)])
    torch.testing.assert_close(layer(x), want, **TOLERANCE["float64"])


@pytest.mark.parametrize("name", [name for name in EXPORTED if not name.startswith("odconv")])
def test_vmap_over_inputs(name: str) -> None:
    features_only = "factored" if "factored" in algorithms(name) else "mixed"
    layer, x = ready(name, algorithm=features_only), images(4)
    got = torch.func.vmap(lambda sample: layer(sample.unsqueeze(0)).squeeze(0))(x)
    torch.testing.assert_close(got, layer(x), **TOLERANCE["float64"])


@pytest.mark.parametrize(("name", "algorithm"), EXPORTED_BY)
def test_export_with_a_free_image_size(name: str, algorithm: str) -> None:
    layer = ready(name, algorithm=algorithm)
    dim = torch.export.Dim.DYNAMIC
    program = torch.export.export(layer, (images(3, (9, 7)),), dynamic_shapes=({0: dim, 2: dim, 3: dim},)).module()
    x = images(2, (12, 11))
    torch.testing.assert_close(program(x), layer(x), **TOLERANCE["float64"])


@pytest.mark.export
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:Constant folding:UserWarning")
@pytest.mark.parametrize("name", ["dcd-channel", "dcd-depthwise", "condconv-grouped", "odconv-square", "dyconv-square"])
def test_older_onnx_exporter_keeps_the_batch_free(name: str) -> None:
    """Other libraries still call it for their users; joint fusion it cannot take."""
    onnxruntime = pytest.importorskip("onnxruntime")
    layer, file = make(name).eval(), io.BytesIO()
    axes = {"x": {0: "batch"}, "y": {0: "batch"}}
    with torch.no_grad():
        torch.onnx.export(
            layer,
            (images(3, dtype=torch.float32),),
            file,
            dynamo=False,
            opset_version=18,
            dynamic_axes=axes,
            input_names=["x"],
            output_names=["y"],
        )
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        for batch in (1, 2, 5):
            x = images(batch, dtype=torch.float32)
            (got,) = session.run(None, {"x": x.numpy()})
            torch.testing.assert_close(torch.from_numpy(got), layer(x), **TOLERANCE["float32"])
