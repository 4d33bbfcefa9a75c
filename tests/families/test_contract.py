"""What every dynamic convolution promises, over every family and form."""

import copy
import dataclasses
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.families import DynamicConv, get_family
from dynaconv.ops import pool_context
from dynaconv.testing import CHECKS, Case, assert_close_to_scale, cases, check_family
from dynaconv.testing.cases import IN_CHANNELS, geometries, images
from dynaconv.testing.contract import value_and_gradients
from tests.families.cases import CASES, FAMILY_CASES, algorithms, make, static_twin
from tests.helpers import LAYERS, TOLERANCE
from tests.messages import refuses

# torch warns, once, that it may copy the input for "same" padding with even kernels; that is one of the cases.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
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


def ready(name: str, **overrides: object) -> DynamicConv:
    """A float64 layer in eval mode, in which every form has a kernel."""
    return CASES[name].ready(**overrides)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: str, case: str) -> None:
    if check == "export_keeps_the_batch_free" and case not in TRACED:
        pytest.skip("takes seconds; others of this kind are exported")
    CHECKS[check](CASES[case])


def test_a_family_that_breaks_a_promise_is_told_which() -> None:
    class Careless(LAYERS["se"]):  # type: ignore[misc, valid-type]
        def sample_bias(self, x: Tensor) -> Tensor | None:
            return self.bias  # type: ignore[no-any-return]

    family = dataclasses.replace(get_family("se"), name="careless", layer=Careless)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        check_family(family)
    (note,) = caught.value.__notes__
    assert note.startswith("in the check forward_is_convolution_with_each_samples_kernel of careless-pointwise: {")


def test_cases_cover_geometries_and_options() -> None:
    found = cases(get_family("dyconv"), [{}, {"num_kernels": 2}])
    assert [str(case) for case in found[10:12]] == ["dyconv-pointwise[num_kernels=2]", "dyconv-square[num_kernels=2]"]
    assert len(found) == 12 + 2 * 5 + 3 * 6
    assert all(isinstance(case, Case) for case in found)


@pytest.mark.parametrize("size", [1, 2])
def test_context_is_summed_in_float32(size: int) -> None:
    x = torch.rand(2, IN_CHANNELS, 33, 47).half()
    context = pool_context(x, size, torch.float32)
    assert context.dtype == torch.float32
    want = F.adaptive_avg_pool2d(x.double(), size).flatten(1)
    torch.testing.assert_close(context.double(), want, rtol=1e-6, atol=1e-6)


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


# FDConv's Fourier transforms are complex.
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "algorithm"), [(name, choice) for name in CASES for choice in algorithms(name)])
def test_every_algorithm_compiles_to_two_graphs_at_most(
    name: str, algorithm: str, mode: bool, shapes: str, backend: str
) -> None:
    if algorithm == "kernel" and mode and CASES[name].uses_batch_statistics:
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
        x = images(max(batch, 1 + CASES[name].uses_batch_statistics), size)
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


def test_an_unknown_algorithm_is_refused() -> None:
    for family in LAYERS:
        with refuses(ValueError, "algorithm"):
            LAYERS[family](4, 4, 1, algorithm="fast")


def test_every_family_is_here() -> None:
    assert FAMILY_CASES.keys() == LAYERS.keys()
    names = ("pointwise", "depthwise", "grouped")
    for family, named in FAMILY_CASES.items():
        assert all(name in named for name in names if name in geometries(get_family(family))), family


def test_padding_equals_functional_padding() -> None:
    layer = ready("dcd-channel-even")
    x = images()
    # "same" puts the odd pixel to the right and below, as torch does.
    padded = F.pad(x, (1, 2, 0, 1))
    kernels = layer.kernel(x)
    want = torch.cat([F.conv2d(padded[i : i + 1], kernels[i], layer.bias) for i in range(3)])
    torch.testing.assert_close(layer(x), want, **TOLERANCE["float64"])


@pytest.mark.parametrize(
    "name", [name for name in EXPORTED if not name.startswith(("odconv", "fdconv", "kernel_warehouse"))]
)
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


class _Halves(nn.Module):
    """The identity, after which that exporter does not know the number of channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(x.chunk(2, 1), 1)


@pytest.mark.export
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:Constant folding:UserWarning")
@pytest.mark.parametrize("context_norm", ["layer", "batch", "running"])
@pytest.mark.parametrize(
    "name", ["dcd-channel", "dcd-depthwise", "condconv-grouped", "odconv-square", "dyconv-square", "se-pointwise"]
)
def test_older_onnx_exporter_keeps_sizes_free(name: str, context_norm: str) -> None:
    """Other libraries still call it for their users; it does not support joint fusion."""
    onnxruntime = pytest.importorskip("onnxruntime")
    network, file = nn.Sequential(_Halves(), make(name, context_norm=context_norm)).eval(), io.BytesIO()
    axes = {key: {0: "batch", 2: f"height of {key}", 3: f"width of {key}"} for key in ("x", "y")}
    with torch.no_grad():
        torch.onnx.export(
            network,
            (images(3, dtype=torch.float32),),
            file,
            dynamo=False,
            opset_version=18,
            dynamic_axes=axes,
            input_names=["x"],
            output_names=["y"],
        )
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        for batch, size in ((1, (9, 7)), (2, (11, 12)), (5, (8, 8))):
            x = images(batch, size, dtype=torch.float32)
            (got,) = session.run(None, {"x": x.numpy()})
            torch.testing.assert_close(torch.from_numpy(got), network(x), **TOLERANCE["float32"])
