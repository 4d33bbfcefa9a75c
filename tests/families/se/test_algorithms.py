"""Each algorithm of squeeze-and-excitation against the equation, in value and every gradient."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynaconv.families.se import (
    ExciteWeights,
    factored_squeeze_excite,
    kernel_squeeze_excite,
    reference_squeeze_excite,
    squeeze_excite_costs,
)
from dynaconv.ops import Geometry
from dynaconv.ops.cost import Cost
from tests.helpers import TOLERANCE, seeded_tensors, value_and_gradients
from tests.ops.problems import Convolution, convolutions

ALGORITHMS: dict[str, Callable[..., Tensor]] = {"kernel": kernel_squeeze_excite, "factored": factored_squeeze_excite}


def excite_from(weights: ExciteWeights) -> Callable[[Tensor], Tensor]:
    def excite(out: Tensor) -> Tensor:
        hidden = F.linear(out.mean((2, 3)), weights.squeeze, weights.squeeze_bias).relu()
        return F.linear(hidden, weights.expand, weights.expand_bias).sigmoid()

    return excite


def tensors(problem: Convolution, hidden: int = 3) -> list[Tensor]:
    channels = problem.out_channels
    shapes = [problem.x_shape, problem.weight_shape, (hidden, channels), (hidden,), (channels, hidden), (channels,)]
    return seeded_tensors(shapes + [(channels,)] * problem.with_bias, seed=problem.seed)


def outputs(algorithm: str, problem: Convolution, leaves: list[Tensor]) -> tuple[Tensor, Tensor]:
    x, weight, excite = leaves[0], leaves[1], ExciteWeights(*leaves[2:6])
    bias = leaves[6] if problem.with_bias else None
    got = ALGORITHMS[algorithm](x, weight, bias, excite_from(excite), problem.geometry)
    return got, reference_squeeze_excite(x, weight, bias, excite, problem.geometry)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=60)
@given(problem=convolutions())
def test_algorithm_equals_reference(algorithm: str, problem: Convolution) -> None:
    leaves = tensors(problem)
    got, want = (value_and_gradients(out, leaves) for out in outputs(algorithm, problem, leaves))
    torch.testing.assert_close(got, want, **TOLERANCE["float64"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=3)
@given(data=st.data())
def test_gradients_equal_finite_differences(algorithm: str, data: st.DataObject) -> None:
    problem = data.draw(convolutions(max_batch=2))

    def run(*leaves: Tensor) -> Tensor:
        return outputs(algorithm, problem, list(leaves))[0]

    assert torch.autograd.gradcheck(run, tuple(tensors(problem)), fast_mode=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_channels_last_gives_the_same(algorithm: str) -> None:
    problem = Convolution(Geometry((3, 3), (2, 1), (1, 1)), 3, 6, 8, (7, 5), True, 0)
    leaves = tensors(problem)
    leaves[0] = leaves[0].contiguous(memory_format=torch.channels_last)
    got, want = outputs(algorithm, problem, leaves)
    torch.testing.assert_close(got, want, **TOLERANCE["float64"])


def test_costs_count_the_convolution_once_and_twice() -> None:
    costs = squeeze_excite_costs(Geometry((3, 3), (2, 2), (1, 1), groups=2), (2, 6, 9, 7), 4)
    static = 2 * 5 * 4 * 4 * 3 * 9  # batch, rows, columns, channels out, channels in of a group, taps
    assert costs["factored"].multiply_adds == static
    assert costs["kernel"].multiply_adds == 2 * static
    assert all(isinstance(cost, Cost) for cost in costs.values())
