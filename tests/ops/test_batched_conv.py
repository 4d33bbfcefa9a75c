"""`batched_conv` and `batched_conv_transpose` compute one convolution of torch per sample."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv import batched_conv, batched_conv_transpose
from dynaconv.ops import Geometry, cheapest, transposed_geometry
from dynaconv.ops.per_sample import (
    grouped_per_sample,
    matmul_per_sample,
    per_sample_costs,
    reference_per_sample_conv,
    taps_per_sample,
)
from dynaconv.testing import TOLERANCE
from tests.helpers import seeded_tensors, value_and_gradients
from tests.messages import refuses

# torch warns, once, that it may copy the input for "same" padding with even kernels.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
SIZES = (9, 7, 6)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "point": {"kernel": 1},
    "point-stride": {"kernel": 1, "stride": 2, "padding": 1},
    "plain": {"kernel": 3},
    "stride": {"kernel": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel": 2, "dilation": 2, "padding": 1},
    "grouped": {"kernel": 3, "groups": 2, "padding": 1},
    "depthwise": {"kernel": 3, "groups": 4, "padding": 1},
}
NAMED = {
    "same": {"kernel": 4, "padding": "same", "dilation": 2},
    "valid": {"kernel": 2, "padding": "valid", "stride": 2},
}
EXTRA = {
    "output-padding": {"kernel": 3, "stride": 3, "output_padding": 2, "padding": 1},
    "dilated-more": {"kernel": 2, "stride": 1, "dilation": 3, "output_padding": 2},
}
CONVOLUTIONS: tuple[Callable[..., Any], ...] = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED: tuple[Callable[..., Any], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class Problem(NamedTuple):
    """One convolution over ``dims`` axes."""

    dims: int
    transposed: bool
    arguments: dict[str, Any]

    @property
    def run(self) -> Callable[..., Tensor]:
        """The batched operator."""
        return batched_conv_transpose if self.transposed else batched_conv

    @property
    def given(self) -> dict[str, Any]:
        """Its arguments."""
        return {key: value for key, value in self.arguments.items() if key != "kernel"}

    def tensors(self, batch: int = 3, *, biases: str = "none", dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """Return input, kernels and bias."""
        groups, kernel = self.arguments.get("groups", 1), (self.arguments["kernel"],) * self.dims
        rows, columns = (4, 8 // groups) if self.transposed else (8, 4 // groups)
        shapes: list[tuple[int, ...]] = [(batch, 4, *SIZES[: self.dims]), (batch, rows, columns, *kernel)]
        shapes += {"none": [], "shared": [(8,)], "each": [(batch, 8)]}[biases]
        return seeded_tensors(shapes, dtype=dtype)

    def one_by_one(self, x: Tensor, kernels: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the convolution of torch for each sample."""
        convolve = (TRANSPOSED if self.transposed else CONVOLUTIONS)[self.dims - 1]
        outs = []
        for number in range(len(x)):
            own = bias if bias is None or bias.dim() == 1 else bias[number]
            outs.append(convolve(x[number : number + 1], kernels[number], own, **self.given))
        return torch.cat(outs)


PROBLEMS = {
    f"{'transposed' if transposed else 'conv'}{dims}d-{name}": Problem(dims, transposed, arguments)
    for dims, transposed in itertools.product((1, 2, 3), (False, True))
    for name, arguments in {**ARGUMENTS, **(EXTRA if transposed else NAMED)}.items()
}
FEW = [name for name in PROBLEMS if name.endswith(("-stride", "-grouped")) and "point" not in name]


@pytest.mark.parametrize("biases", ["none", "shared", "each"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_value_and_gradients_are_those_of_one_convolution_per_sample(name: str, biases: str) -> None:
    problem = PROBLEMS[name]
    leaves = problem.tensors(biases=biases)
    want = value_and_gradients(problem.one_by_one(*leaves), leaves)
    got = value_and_gradients(problem.run(*leaves, **problem.given), leaves)
    torch.testing.assert_close(got, want, **TOLERANCE["float64"])


@pytest.mark.parametrize("algorithm", [matmul_per_sample, grouped_per_sample, taps_per_sample])
@pytest.mark.parametrize("seed", range(60))
def test_every_algorithm_is_the_reference(algorithm: Callable[..., Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    dims, groups = draw(1, 3), draw(1, 3)
    kernel, stride, dilation = (tuple(draw(1, 3) for _ in range(dims)) for _ in range(3))
    padding = tuple(draw(0, (size - 1) * spacing // 2) for size, spacing in zip(kernel, dilation, strict=True))
    if seed % 2:
        extra = tuple(draw(0, max(pair) - 1) for pair in zip(stride, dilation, strict=True))
        geometry = transposed_geometry(kernel, stride, padding, dilation, groups, extra)
    else:
        geometry = Geometry(kernel, stride, padding, dilation, groups)
    batch, inner, outer = draw(1, 3), draw(1, 3), draw(1, 3)
    sizes = tuple(draw(5, 8) for _ in range(dims))
    shapes = [(batch, groups * inner, *sizes), (batch, groups * outer, inner, *kernel)]
    leaves = seeded_tensors(shapes, seed=seed)
    want = value_and_gradients(reference_per_sample_conv(*leaves, geometry), leaves)
    got = value_and_gradients(algorithm(*leaves, geometry), leaves)
    torch.testing.assert_close(got, want, **TOLERANCE["float64"])
    channels_last = leaves[0].detach().movedim(1, -1).contiguous().movedim(-1, 1)
    torch.testing.assert_close(algorithm(channels_last, leaves[1], geometry), want[0], **TOLERANCE["float64"])


def test_hand_computed() -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0]], [[1.0, 0.0, -1.0]]])
    kernels = torch.tensor([[[[1.0, 10.0]]], [[[2.0, 3.0]]]])
    assert batched_conv(x, kernels).tolist() == [[[21.0, 32.0]], [[2.0, -3.0]]]
    assert batched_conv(x, kernels, torch.tensor([[1.0], [2.0]])).tolist() == [[[22.0, 33.0]], [[4.0, -1.0]]]
    out = batched_conv_transpose(x, kernels, stride=2)
    assert out.tolist() == [[[1.0, 10.0, 2.0, 20.0, 3.0, 30.0]], [[2.0, 3.0, 0.0, 0.0, -2.0, -3.0]]]


@pytest.mark.parametrize("name", [name for name in FEW if "3d" not in name])
def test_second_derivatives(name: str) -> None:
    problem = PROBLEMS[name]
    leaves = problem.tensors(2, biases="each")
    small = [leaves[0].detach()[:, :, *(slice(4),) * problem.dims].requires_grad_(), *leaves[1:]]
    assert torch.autograd.gradgradcheck(lambda *parts: problem.run(*parts, **problem.given), small, fast_mode=True)


@pytest.mark.parametrize("name", FEW)
def test_vmap_over_a_further_axis(name: str) -> None:
    problem = PROBLEMS[name]
    stacks = [torch.stack(pair) for pair in zip(problem.tensors(2), problem.tensors(2), strict=True)]
    stacks[0] = stacks[0] * torch.tensor([1.0, 2.0]).reshape(2, *[1] * (stacks[0].dim() - 1))
    got = torch.func.vmap(lambda x, kernels: problem.run(x, kernels, **problem.given))(*stacks)
    want = torch.stack([problem.one_by_one(*pair) for pair in zip(*stacks, strict=True)])
    torch.testing.assert_close(got, want, **TOLERANCE["float64"])


class Layer(nn.Module):
    """The operator as a module."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem

    def forward(self, x: Tensor, kernels: Tensor) -> Tensor:
        """Run the operator."""
        return self.problem.run(x, kernels, **self.problem.given)


@pytest.mark.parametrize("name", FEW)
def test_exported_graph_keeps_the_batch_free(name: str) -> None:
    problem = PROBLEMS[name]
    layer, batch = Layer(problem), {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(layer, tuple(problem.tensors(3)), dynamic_shapes=(batch, batch))
    targets = {str(node.target) for node in program.graph.nodes}
    assert not any("conv" in target for target in targets)
    for size in (1, 2, 7):
        leaves = problem.tensors(size)
        torch.testing.assert_close(program.module()(*leaves), problem.one_by_one(*leaves), **TOLERANCE["float64"])


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if "3d" in name else ()) for name in FEW])
def test_compiled_graph_serves_every_batch_size(name: str) -> None:
    torch.compiler.reset()
    problem, stats = PROBLEMS[name], torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]
    compiled = torch.compile(Layer(problem), fullgraph=True, backend="aot_eager")
    for size in (2, 3, 5):
        leaves = problem.tensors(size)
        want = value_and_gradients(problem.one_by_one(*leaves), leaves)
        torch.testing.assert_close(value_and_gradients(compiled(*leaves), leaves), want, **TOLERANCE["float64"])
    assert stats["unique_graphs"] - before <= 2


@pytest.mark.parametrize("name", FEW)
def test_empty_batch_channels_last_and_autocast(name: str) -> None:
    problem = PROBLEMS[name]
    x, kernels = (tensor.detach() for tensor in problem.tensors(dtype=torch.float32))
    want = problem.one_by_one(x, kernels)
    assert problem.run(x[:0], kernels[:0], **problem.given).shape == (0, *want.shape[1:])
    if problem.dims > 1:
        layout = torch.channels_last if problem.dims == 2 else torch.channels_last_3d
        got = problem.run(x.contiguous(memory_format=layout), kernels, **problem.given)
        torch.testing.assert_close(got, want, **TOLERANCE["float32"])
    with torch.autocast("cpu", torch.bfloat16):
        half = problem.run(x, kernels, **problem.given)
    assert half.dtype == torch.bfloat16
    assert (half.float() - want).abs().max() < 0.05 * want.abs().max()


def test_both_algorithms_are_chosen() -> None:
    geometry = Geometry((3, 3), padding=(1, 1))
    for channels, side, fastest in ((64, 56, "grouped"), (512, 7, "matmul")):
        assert cheapest(per_sample_costs(geometry, (8, channels, side, side), channels)) == fastest


_X, _K = torch.zeros(2, 4, 9), torch.zeros(2, 6, 4, 3)
MISTAKES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "axes": (batched_conv, (_X[0], _K), {}),
    "batches": (batched_conv, (_X, _K[:1]), {}),
    "channels": (batched_conv, (_X[:, :3], _K), {}),
    "groups": (batched_conv, (_X, _K), {"groups": 4}),
    "stride": (batched_conv, (_X, _K), {"stride": 0}),
    "padding": (batched_conv, (_X, _K), {"padding": "full"}),
    "same": (batched_conv, (_X, _K), {"padding": "same", "stride": 2}),
    "bias": (batched_conv, (_X, _K, torch.zeros(5)), {}),
    "small": (batched_conv, (_X[:, :, :2], _K), {}),
    "transposed channels": (batched_conv_transpose, (_X, _K), {}),
    "output padding": (batched_conv_transpose, (_X, _K[:, :4]), {"output_padding": 1}),
    "cropped": (batched_conv_transpose, (_X[:, :, :2], _K[:, :4]), {"padding": 3}),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    function, tensors, arguments = MISTAKES[name]
    with refuses(ValueError):
        function(*tensors, **arguments)


@pytest.mark.parametrize("function", [batched_conv, batched_conv_transpose])
def test_integers_are_refused(function: Callable[..., Tensor]) -> None:
    with refuses(TypeError, "`kernels`", "torch.int64"):
        function(_X, _K.long())


@pytest.mark.parametrize("function", [batched_conv, batched_conv_transpose])
def test_dtypes_that_differ_are_refused_without_autocast(function: Callable[..., Tensor]) -> None:
    x, kernels = torch.randn(2, 4, 9), torch.randn(2, 4, 4, 3).bfloat16()
    with refuses(TypeError, "torch.float32", "torch.bfloat16"):
        function(x, kernels)
    with torch.autocast("cpu", torch.bfloat16):
        assert function(x, kernels).dtype == torch.bfloat16
