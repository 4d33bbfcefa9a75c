"""The training steps of a DCD convolution against the equation: value, gradients, second derivatives."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dynaconv.families.dcd import DCDFactors, factored_dcd, kernel_dcd, reference_dcd
from dynaconv.families.dcd.factored_step import factored_step_dcd, joins
from dynaconv.families.dcd.kernel_step import kernel_step_dcd
from dynaconv.families.dcd.step import supports_step
from dynaconv.ops import Geometry
from tests.families.dcd.problems import Problem
from tests.helpers import TOLERANCE, value_and_gradients

POINT = Geometry((1, 1))
both = pytest.mark.parametrize("algorithm", ["factored", "kernel"])
LARGER = {
    "same": Geometry((3, 3), padding=(1, 1)),
    "stride": Geometry((3, 3), (2, 2), (1, 1)),
    "rectangle": Geometry((5, 3), (1, 2), (4, 1), (2, 1)),
    "even": Geometry((2, 4), (1, 1), (1, 2)),
    "valid": Geometry((3, 3)),
    "padded-point": Geometry((1, 1), padding=(1, 0)),
    "strided-point": Geometry((1, 1), (2, 1)),
}


def step(algorithm: str, x: Tensor, factors: DCDFactors, geometry: Geometry = POINT) -> Tensor:
    if algorithm == "kernel":
        return kernel_step_dcd(x, factors)
    return factored_step_dcd(x, factors, geometry)


def problem(
    batch: int = 3, channels: tuple[int, int] = (6, 8), size: tuple[int, int] = (7, 5), **changes: Any
) -> Problem:
    sizes = {"blocks": 1, "latent_dim": 3, "latent_taps": 1, "scaled": True, "residual": True}
    sizes |= {"input_scaled": False, "seed": 0}
    return Problem("channel", changes.pop("geometry", POINT), batch, *channels, size, **{**sizes, **changes})


def prepared(
    case: Problem, dtype: torch.dtype = torch.float64, layout: Any = None
) -> tuple[dict[str, Tensor], DCDFactors]:
    tensors = {name: t.detach().to(dtype) for name, t in case.tensors().items()}
    if layout is not None:
        tensors["x"] = tensors["x"].contiguous(memory_format=layout)
    tensors = {name: t.requires_grad_() for name, t in tensors.items()}
    return tensors, case.factors(tensors)


@both
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize(("channels", "size"), [((6, 8), (7, 5)), ((8, 5), (1, 1)), ((1, 4), (3, 1)), ((5, 1), (2, 6))])
@pytest.mark.parametrize("batch", [1, 3])
def test_step_equals_reference(batch: int, channels: Any, size: Any, layout: Any, dtype: str, algorithm: str) -> None:
    tensors, factors = prepared(problem(batch, channels, size), getattr(torch, dtype), layout)
    leaves = list(tensors.values())
    assert supports_step(tensors["x"], factors, POINT)
    want = value_and_gradients(reference_dcd(tensors["x"], factors, POINT), leaves)
    got = value_and_gradients(step(algorithm, tensors["x"], factors), leaves)
    torch.testing.assert_close(got, want, **TOLERANCE[dtype])


@both
def test_step_has_second_derivatives(algorithm: str) -> None:
    tensors, _ = prepared(problem(2, (3, 4), (2, 3)))
    names = list(tensors)

    def run(*values: Tensor) -> Tensor:
        named = dict(zip(names, values, strict=True))
        return step(algorithm, named["x"], DCDFactors("channel", **{n: t for n, t in named.items() if n != "x"}))

    assert torch.autograd.gradgradcheck(run, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("out_channels", [15, 13])
@pytest.mark.parametrize("geometry", LARGER.values(), ids=LARGER)
def test_step_of_any_kernel_size_equals_reference(
    geometry: Geometry, out_channels: int, layout: Any, dtype: str
) -> None:
    case = problem(3, (5, out_channels), (6, 7), geometry=geometry)
    tensors, factors = prepared(case, getattr(torch, dtype), layout)
    leaves = list(tensors.values())
    assert supports_step(tensors["x"], factors, geometry)
    want = value_and_gradients(reference_dcd(tensors["x"], factors, geometry), leaves)
    got = value_and_gradients(factored_dcd(tensors["x"], factors, geometry), leaves)
    torch.testing.assert_close(got, want, **TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["same", "stride", "valid"])
@pytest.mark.parametrize("out_channels", [15, 13])
def test_step_of_any_kernel_size_has_second_derivatives(name: str, out_channels: int) -> None:
    geometry = LARGER[name]
    tensors, _ = prepared(problem(2, (2, out_channels), (4, 3), geometry=geometry))
    names = list(tensors)

    def run(*values: Tensor) -> Tensor:
        named = dict(zip(names, values, strict=True))
        factors = DCDFactors("channel", **{n: t for n, t in named.items() if n != "x"})
        return factored_step_dcd(named["x"], factors, geometry)

    assert torch.autograd.gradgradcheck(run, tuple(tensors.values()), fast_mode=True)


def test_q_is_a_convolution_where_it_costs_no_block_of_channels() -> None:
    same, strided, valid = LARGER["same"], LARGER["stride"], LARGER["valid"]
    assert joins(64, 8, POINT)
    assert joins(8, 4, same)
    assert not joins(16, 4, same)
    assert not joins(64, 8, strided)
    assert joins(64, 8, valid)


def test_a_frozen_input_gets_no_gradient_from_larger_kernels() -> None:
    for out_channels in (15, 13):
        tensors, factors = prepared(problem(2, (5, out_channels), geometry=LARGER["same"]))
        tensors["x"].requires_grad_(False)
        factored_dcd(tensors["x"], factors, LARGER["same"]).sum().backward()
        assert tensors["x"].grad is None
        assert all(tensor.grad is not None for name, tensor in tensors.items() if name != "x")


@pytest.mark.parametrize("run", [factored_dcd, kernel_dcd])
@pytest.mark.parametrize("frozen", ["x", "weight", "p"])
def test_what_is_frozen_gets_no_gradient(frozen: str, run: Any) -> None:
    tensors, factors = prepared(problem())
    tensors[frozen].requires_grad_(False)
    run(tensors["x"], factors, POINT).sum().backward()
    assert all((tensor.grad is None) == (name == frozen) for name, tensor in tensors.items())


@both
def test_step_keeps_the_memory_format(algorithm: str) -> None:
    tensors, factors = prepared(problem(), layout=torch.channels_last)
    out = step(algorithm, tensors["x"], factors)
    assert out.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(out.square().sum(), tensors["x"])
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@both
@pytest.mark.parametrize("flip", [False, True])
def test_input_and_gradient_may_lie_differently(algorithm: str, flip: bool) -> None:
    formats = [torch.channels_last, torch.contiguous_format][:: -1 if flip else 1]
    tensors, factors = prepared(problem(), layout=formats[0])
    leaves = list(tensors.values())
    want, out = reference_dcd(tensors["x"], factors, POINT), step(algorithm, tensors["x"], factors)
    upstream = torch.randn_like(want).contiguous(memory_format=formats[1])
    got, want_gradients = (torch.autograd.grad(y, leaves, upstream) for y in (out, want))
    torch.testing.assert_close(got, want_gradients, **TOLERANCE["float64"])


def test_other_cases_are_left_to_plain_operators() -> None:
    tensors, factors = prepared(problem())
    x = tensors["x"]
    with torch.no_grad():
        assert not supports_step(x, factors, POINT)
    with torch.autocast("cpu", torch.bfloat16):
        assert not supports_step(x, factors, POINT)
    assert not supports_step(x, factors, Geometry((1, 1), groups=2))
    assert not supports_step(x, factors._replace(scale=None), POINT)
    assert not supports_step(x[:0], factors, POINT)
    assert not supports_step(x, factors._replace(scale=factors.scale.float()), POINT)  # type: ignore[union-attr]
    two_blocks, split = prepared(problem(blocks=2))
    assert not supports_step(two_blocks["x"], split, POINT)
    # A batched tensor of vmap is no plain one.
    seen = []
    torch.func.vmap(lambda sample: seen.append(supports_step(sample[None], factors, POINT)) or sample)(x)
    assert seen == [False]
