"""Each algorithm of DCD against the equation, in value and every gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynaconv.families.dcd import (
    DCDFactors,
    dcd_kernel,
    factored_dcd,
    kernel_dcd,
    reference_dcd,
    reference_normalised_dcd,
)
from dynaconv.ops import Geometry
from dynaconv.ops.per_sample import taps_per_sample
from tests.families.dcd.problems import Problem, problems
from tests.helpers import TOLERANCE, value_and_gradients


def taps_dcd(x: Tensor, factors: DCDFactors, geometry: Geometry) -> Tensor:
    """The kernel algorithm as it is exported: without folding the batch into groups."""
    return taps_per_sample(x, dcd_kernel(factors, geometry, x.shape[0]), geometry)


ALGORITHMS: dict[str, Callable[..., Tensor]] = {"kernel": kernel_dcd, "factored": factored_dcd, "taps": taps_dcd}


def assert_equals_reference(problem: Problem, algorithm: str, dtype: str = "float64") -> None:
    tensors = {name: t.detach().to(getattr(torch, dtype)).requires_grad_() for name, t in problem.tensors().items()}
    leaves, factors = list(tensors.values()), problem.factors(tensors)
    want = value_and_gradients(reference_dcd(tensors["x"], factors, problem.geometry), leaves)
    got = value_and_gradients(ALGORITHMS[algorithm](tensors["x"], factors, problem.geometry), leaves)
    torch.testing.assert_close(got, want, **TOLERANCE[dtype])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("form", ["channel", "joint", "depthwise"])
@settings(max_examples=300)
@given(data=st.data())
def test_algorithm_equals_reference(form: Any, algorithm: str, data: st.DataObject) -> None:
    assert_equals_reference(data.draw(problems(form)), algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("form", ["channel", "joint", "depthwise"])
@settings(max_examples=20)
@given(data=st.data())
def test_algorithm_equals_reference_in_float32(form: Any, algorithm: str, data: st.DataObject) -> None:
    assert_equals_reference(data.draw(problems(form)), algorithm, "float32")


@pytest.mark.parametrize("algorithm", ["kernel", "factored"])
@pytest.mark.parametrize("form", ["channel", "joint", "depthwise"])
@settings(max_examples=3)
@given(data=st.data())
def test_gradients_equal_finite_differences(form: Any, algorithm: str, data: st.DataObject) -> None:
    problem = data.draw(problems(form, max_batch=2))
    tensors = problem.tensors()
    names = list(tensors)

    def run(*values: Tensor) -> Tensor:
        named = dict(zip(names, values, strict=True))
        return ALGORITHMS[algorithm](named["x"], problem.factors(named), problem.geometry)

    assert torch.autograd.gradcheck(run, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_channels_last_gives_the_same(algorithm: str) -> None:
    problem = Problem("channel", Geometry((3, 3), (2, 1), (1, 1)), 3, 6, 8, (7, 5), 1, 3, 1, True, True, False, 0)
    tensors = problem.tensors()
    factors = problem.factors(tensors)
    want = reference_dcd(tensors["x"], factors, problem.geometry)
    x = tensors["x"].contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ALGORITHMS[algorithm](x, factors, problem.geometry), want, **TOLERANCE["float64"])


def test_pointwise_keeps_channels_last() -> None:
    problem = Problem("channel", Geometry((1, 1)), 3, 6, 8, (7, 5), 1, 3, 1, True, True, False, 0)
    tensors = problem.tensors()
    x = tensors["x"].contiguous(memory_format=torch.channels_last)
    for algorithm in (kernel_dcd, factored_dcd):
        out = algorithm(x, problem.factors(tensors), problem.geometry)
        assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("groups", "blocks", "stride", "dilation"), [(1, 1, 1, 1), (1, 2, 2, 1), (2, 4, 1, 2)])
def test_normalised_form_equals_reference(groups: int, blocks: int, stride: int, dilation: int) -> None:
    geometry = Geometry((3, 3), (stride, stride), (dilation, dilation), (dilation, dilation), groups)
    tensors = Problem("channel", geometry, 3, 8, 12, (7, 5), blocks, 2, 1, True, True, False, 0).tensors()
    leaves, factors = list(tensors.values()), DCDFactors("channel", **{k: t for k, t in tensors.items() if k != "x"})

    def norm(z: Tensor) -> Tensor:
        return torch.nn.functional.batch_norm(z, None, None, training=True)

    x = tensors["x"]
    want = value_and_gradients(reference_normalised_dcd(x, factors, geometry, (norm, norm)), leaves)
    got = value_and_gradients(factored_dcd(x, factors, geometry, (norm, norm)), leaves)
    torch.testing.assert_close(got, want, **TOLERANCE["float64"])
