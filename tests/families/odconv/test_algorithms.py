"""Each algorithm of ODConv against the equation, in value and every gradient."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynaconv.families.odconv import (
    ODConvCoefficients,
    grouped_odconv,
    kernel_odconv,
    mixed_odconv,
    odconv_attention,
    odconv_kernel,
    reference_odconv,
)
from dynaconv.ops import Geometry
from dynaconv.ops.per_sample import taps_per_sample
from tests.families.odconv.problems import Problem, logits, problems
from tests.helpers import TOLERANCE, value_and_gradients
from tests.ops.problems import Convolution


def taps_odconv(x: Tensor, attention: ODConvCoefficients, kernels: Tensor, geometry: Geometry) -> Tensor:
    """The kernel algorithm as it is exported: one tap after the other."""
    return taps_per_sample(x, odconv_kernel(attention, kernels, geometry.groups), geometry)


ALGORITHMS: dict[str, Callable[..., Tensor]] = {
    "kernel": kernel_odconv,
    "mixed": mixed_odconv,
    "grouped": grouped_odconv,
    "taps": taps_odconv,
}
FIXED = Problem(Convolution(Geometry((3, 2), (2, 1), (1, 1), (1, 2), 2), 3, 6, 8, (7, 5), False, 0), 3, True, 0.5)


def run(algorithm: str, problem: Problem, tensors: dict[str, Tensor]) -> Tensor:
    attention = odconv_attention(logits(tensors), problem.scalar())
    return ALGORITHMS[algorithm](tensors["x"], attention, tensors["kernels"], problem.conv.geometry)


def run_reference(problem: Problem, tensors: dict[str, Tensor]) -> Tensor:
    temperature = problem.scalar().to(tensors["x"].dtype)
    return reference_odconv(tensors["x"], logits(tensors), tensors["kernels"], temperature, problem.conv.geometry)


def assert_equals_reference(problem: Problem, algorithm: str, dtype: str = "float64") -> None:
    tensors = {name: t.detach().to(getattr(torch, dtype)).requires_grad_() for name, t in problem.tensors().items()}
    leaves = list(tensors.values())
    want = value_and_gradients(run_reference(problem, tensors), leaves)
    got = value_and_gradients(run(algorithm, problem, tensors), leaves)
    torch.testing.assert_close(got, want, **TOLERANCE[dtype])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=100)
@given(data=st.data())
def test_algorithm_equals_reference(algorithm: str, data: st.DataObject) -> None:
    assert_equals_reference(data.draw(problems()), algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=20)
@given(data=st.data())
def test_algorithm_equals_reference_in_float32(algorithm: str, data: st.DataObject) -> None:
    assert_equals_reference(data.draw(problems()), algorithm, "float32")


@pytest.mark.parametrize("algorithm", ["kernel", "mixed", "grouped"])
@settings(max_examples=4)
@given(data=st.data())
def test_gradients_equal_finite_differences(algorithm: str, data: st.DataObject) -> None:
    problem = data.draw(problems(max_batch=2))
    tensors = problem.tensors()
    names = list(tensors)

    def function(*values: Tensor) -> Tensor:
        return run(algorithm, problem, dict(zip(names, values, strict=True)))

    assert torch.autograd.gradcheck(function, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_channels_last_gives_the_same(algorithm: str) -> None:
    tensors = FIXED.tensors()
    want = run_reference(FIXED, tensors)
    tensors["x"] = tensors["x"].contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(run(algorithm, FIXED, tensors), want, **TOLERANCE["float64"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_empty_batch(algorithm: str) -> None:
    tensors = {name: t if name == "kernels" else t[:0] for name, t in FIXED.tensors().items()}
    assert run(algorithm, FIXED, tensors).shape == (0, *run_reference(FIXED, FIXED.tensors()).shape[1:])
