"""Each algorithm of a kernel mixture against CondConv's and DY-Conv's equations, in value and every gradient."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynaconv.families.condconv import reference_condconv
from dynaconv.families.dyconv import reference_dyconv
from dynaconv.ops import Geometry
from dynaconv.ops.mixture import grouped_mixture, kernel_mixture, mix_kernels, mixed_mixture, mixture_costs
from tests.helpers import TOLERANCE, seeded_tensors, value_and_gradients
from tests.ops.problems import Convolution, convolutions

Algorithm = Callable[[Tensor, Tensor, Tensor, Geometry], Tensor]


def while_exporting(algorithm: Algorithm) -> Algorithm:
    """The algorithm as it is recorded into a graph: nothing may fold the batch into groups."""

    def run(x: Tensor, attention: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
        with (
            patch("dynaconv.ops.per_sample.is_exporting", return_value=True),
            patch("dynaconv.ops.per_sample.grouped_per_sample", side_effect=AssertionError),
        ):
            return algorithm(x, attention, kernels, geometry)

    return run


ALGORITHMS: dict[str, Algorithm] = {
    "kernel": kernel_mixture,
    "mixed": mixed_mixture,
    "grouped": grouped_mixture,
    "kernel-exporting": while_exporting(kernel_mixture),
    "grouped-exporting": while_exporting(grouped_mixture),
}
FAMILIES = ["condconv", "dyconv"]


def draw_leaves(problem: Convolution, num_kernels: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Leaves by name, scaled so that outputs are of order one."""
    shapes: dict[str, tuple[int, ...]] = {
        "x": problem.x_shape,
        "logits": (problem.batch, num_kernels),
        "kernels": (num_kernels, *problem.weight_shape),
        "temperature": (),
    }
    if problem.with_bias:
        shapes["biases"] = (num_kernels, problem.out_channels)
    leaves = dict(zip(shapes, seeded_tensors(list(shapes.values()), seed=problem.seed, dtype=dtype), strict=True))
    fan = problem.weight_shape[1] * problem.geometry.num_taps
    leaves["kernels"] = (leaves["kernels"].detach() / fan**0.5).requires_grad_()
    leaves["temperature"] = (leaves["temperature"].detach().abs() + 0.5).requires_grad_()
    return leaves


def run(family: str, algorithm: str, leaves: dict[str, Tensor], geometry: Geometry) -> Tensor:
    """The algorithm with the family's attention, biases added."""
    logits = leaves["logits"]
    attention = logits.sigmoid() if family == "condconv" else (logits / leaves["temperature"]).softmax(1)
    out = ALGORITHMS[algorithm](leaves["x"], attention, leaves["kernels"], geometry)
    biases = leaves.get("biases")
    return out if biases is None else out + mix_kernels(attention, biases)[:, :, None, None]


def reference(family: str, leaves: dict[str, Tensor], geometry: Geometry) -> Tensor:
    x, logits, kernels, biases = leaves["x"], leaves["logits"], leaves["kernels"], leaves.get("biases")
    if family == "condconv":
        return reference_condconv(x, logits, kernels, biases, geometry)
    return reference_dyconv(x, logits, kernels, biases, leaves["temperature"], geometry)


def assert_equals_reference(
    family: str, algorithm: str, problem: Convolution, num_kernels: int, dtype: str = "float64"
) -> None:
    leaves = draw_leaves(problem, num_kernels, getattr(torch, dtype))
    inputs = list(leaves.values())
    want = value_and_gradients(reference(family, leaves, problem.geometry), inputs)
    got = value_and_gradients(run(family, algorithm, leaves, problem.geometry), inputs)
    torch.testing.assert_close(got, want, **TOLERANCE[dtype])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60)
@given(problem=convolutions(), num_kernels=st.integers(1, 4))
def test_algorithm_equals_reference(family: str, algorithm: str, problem: Convolution, num_kernels: int) -> None:
    assert_equals_reference(family, algorithm, problem, num_kernels)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=15)
@given(problem=convolutions(), num_kernels=st.integers(1, 4))
def test_algorithm_equals_reference_in_float32(algorithm: str, problem: Convolution, num_kernels: int) -> None:
    assert_equals_reference("dyconv", algorithm, problem, num_kernels, "float32")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=3)
@given(problem=convolutions(max_batch=2))
def test_gradients_equal_finite_differences(family: str, algorithm: str, problem: Convolution) -> None:
    leaves = draw_leaves(problem, 3)
    if family == "condconv":
        del leaves["temperature"]
    names = list(leaves)

    def function(*values: Tensor) -> Tensor:
        return run(family, algorithm, dict(zip(names, values, strict=True)), problem.geometry)

    assert torch.autograd.gradcheck(function, tuple(leaves.values()), fast_mode=True)


CHANNELS_LAST = {
    "pointwise": Geometry((1, 1)),
    "strided": Geometry((3, 3), (2, 1), (1, 1)),
    "grouped": Geometry((3, 2), (1, 1), (1, 0), (1, 2), 2),
    "depthwise": Geometry((3, 3), (1, 2), (1, 1), (1, 1), 6),
}


@pytest.mark.parametrize("geometry", CHANNELS_LAST.values(), ids=CHANNELS_LAST)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_channels_last_gives_the_same(algorithm: str, geometry: Geometry) -> None:
    leaves = draw_leaves(Convolution(geometry, 3, 6, 12, (7, 5), True, 0), 3)
    inputs = list(leaves.values())
    want = value_and_gradients(reference("dyconv", leaves, geometry), inputs)
    last = leaves | {"x": leaves["x"].contiguous(memory_format=torch.channels_last)}
    got = value_and_gradients(run("dyconv", algorithm, last, geometry), inputs)
    torch.testing.assert_close(got, want, **TOLERANCE["float64"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3)])
def test_empty_batch_gives_an_empty_output(algorithm: str, kernel_size: tuple[int, int]) -> None:
    geometry = Geometry(kernel_size)
    leaves = draw_leaves(Convolution(geometry, 0, 4, 6, (5, 5), True, 0), 2)
    assert run("dyconv", algorithm, leaves, geometry).shape == (0, 6, *geometry.output_size(5, 5))


def test_mixed_kernels_by_hand() -> None:
    attention = torch.tensor([[1.0, 0.0], [0.25, 0.5]])
    stacked = torch.tensor([[[4.0], [8.0]], [[2.0], [-2.0]]])
    want = torch.tensor([[[4.0], [8.0]], [[2.0], [1.0]]])
    assert torch.equal(mix_kernels(attention, stacked), want)


def test_kernels_are_mixed_in_full_precision_under_autocast() -> None:
    attention, kernels = torch.rand(2, 3), torch.randn(3, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mix_kernels(attention, kernels)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, torch.einsum("bk,kij->bij", attention, kernels), **TOLERANCE["float32"])


def test_costs_count_multiply_adds() -> None:
    costs = mixture_costs(Geometry((3, 3), (2, 2), (1, 1), groups=2), (5, 6, 9, 7), 4, 8)
    weights, pixels = 4 * 3 * 9, 5 * 4
    static = 5 * pixels * weights
    for name in ("kernel", "grouped"):
        assert costs[name].multiply_adds == static + 5 * 8 * weights
    assert costs["mixed"].multiply_adds == 8 * static + 5 * pixels * 4 * 8
