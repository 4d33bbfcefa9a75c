"""The comparison that every export has to pass."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv.errors import ExportError
from dynaconv.export.verify import largest_difference, named_outputs, random_inputs, verify
from tests.messages import refuses


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.conv(x)
        return {"out": y, "aux": [y.mean((2, 3)), y.amax((2, 3))]}


@pytest.fixture
def model() -> nn.Module:
    return TwoHeads().eval()


def test_a_twin_passes_at_every_batch_and_size(model: nn.Module) -> None:
    checks = verify(model, model, torch.rand(2, 3, 8, 8), runtime="twin", batches=(1, 5), sizes=[None, (9, 7)])
    assert [check.shapes for check in checks] == [((1, 3, 8, 8),), ((5, 3, 8, 8),), ((5, 3, 9, 7),)]
    assert [check.difference for check in checks] == [0.0, 0.0, 0.0]


def test_a_flat_list_of_arrays_counts_as_the_outputs(model: nn.Module) -> None:
    def run(x: Tensor) -> list[Any]:
        return [value.detach().numpy() for value in named_outputs(model(x)).values()]

    assert verify(run, model, torch.rand(2, 3, 8, 8), runtime="twin")[0].difference == 0.0


@pytest.mark.parametrize("size", [2e-4, math.nan, math.inf])
def test_a_difference_in_any_output_is_refused(model: nn.Module, size: float) -> None:
    def run(x: Tensor) -> dict[str, Any]:
        outputs = model(x)
        worst = outputs["aux"][1]
        worst.view(-1)[0] += size * worst.abs().max()
        return dict(named_outputs(outputs))

    with torch.no_grad(), refuses(ExportError, "twin"):
        verify(run, model, torch.rand(2, 3, 8, 8), runtime="twin")


def test_a_small_difference_is_measured_relative_to_the_largest_output() -> None:
    want = torch.tensor([[100.0, 0.0]])
    assert largest_difference(torch.tensor([[100.0, 0.01]]), want, "twin") == pytest.approx(1e-4)
    assert largest_difference(torch.tensor([[0.5]]), torch.zeros(1, 1), "twin") == 0.5


def test_a_runtime_that_fails_or_changes_the_outputs_is_refused(model: nn.Module) -> None:
    def fails(x: Tensor) -> Any:
        raise RuntimeError("Got invalid dimensions for input\nmore")

    def drops(x: Tensor) -> Any:
        return [model(x)["out"]]

    def flattens(x: Tensor) -> Any:
        return [each.flatten() for each in named_outputs(model(x)).values()]

    for run in (fails, drops, flattens):
        with refuses(ExportError, "twin"):
            verify(run, model, torch.rand(2, 3, 8, 8), runtime="twin")


class Cancels(nn.Module):
    """Loses all digits but two, and computes in float32 whatever comes."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.float32) + torch.full((3,), 1e5, dtype=torch.float32)) - 1e5


class Explodes(nn.Module):
    """Untrained, deep and without norms: each layer multiplies rounding errors up."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(30):
            x = torch.sin(3 * x.roll(1, -1)) * 2
        return x


@pytest.mark.parametrize(
    ("network", "run"),
    [(Cancels(), nn.Identity()), (Explodes(), lambda x: Explodes()(x * 1.0000001))],
    ids=["cancels", "explodes"],
)
def test_a_network_that_is_sensitive_to_rounding_is_named_as_the_cause(network: nn.Module, run: Any) -> None:
    with refuses(ExportError, "twin"):
        verify(run, network, torch.randn(2, 3), runtime="twin")


@pytest.mark.parametrize("network", [nn.Linear(3, 3), Cancels()], ids=["linear", "cancels"])
def test_a_runtime_that_is_wrong_is_named_as_the_cause(network: nn.Module) -> None:
    def run(x: Tensor) -> Tensor:
        y: Tensor = network(x)
        return y + 0.44 * y.abs().max()

    with torch.no_grad(), refuses(ExportError, "twin", "4.4e-01"):
        verify(run, network, torch.randn(2, 3), runtime="twin")


def test_a_network_without_float64_leaves_the_cause_open() -> None:
    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.float32
            return x

    with refuses(ExportError):
        verify(lambda x: 2 * x, Refuses(), torch.randn(2, 3), runtime="twin")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_that_is_not_finite_is_named_as_the_cause(value: float) -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * value

    with refuses(ExportError, "twin"):
        verify(lambda x: x, Breaks(), torch.randn(2, 3), runtime="twin")


def test_inputs_on_which_the_network_is_uncertain_are_drawn_again() -> None:
    class Cancels(nn.Module):
        """Loses its digits where the first value is above a half."""

        def forward(self, x: Tensor) -> Tensor:
            huge = 1e6 * (x[:, :1] > 0.5)
            return (x + huge) - huge

    example = torch.rand(64, 3)
    checks = verify(lambda x: x, Cancels(), example, runtime="twin", batches=(8,))
    assert checks[0].redrawn
    assert checks[0].difference <= 1e-4
    with refuses(ExportError, "twin"):
        verify(lambda x: x * 1.001, Cancels(), example, runtime="twin", batches=(8,))


def test_inputs_are_drawn_from_the_values_of_the_example() -> None:
    images, labels = random_inputs((torch.rand(2, 3, 6, 6) + 1, torch.tensor([3, 5])), 7, (4, 5))
    assert images.shape == (7, 3, 4, 5)
    assert 0.5 <= images.min() <= images.max() <= 2
    assert set(labels.tolist()) <= {3, 5}
    means = images.mean((2, 3))
    assert means.std(0).min() > 0.1  # the samples differ
    assert random_inputs(torch.zeros(1, 3, 6, 6), 2)[0].std() > 0.5


def test_names_of_outputs_follow_the_structure() -> None:
    y = torch.zeros(1)
    assert list(named_outputs(y)) == ["output"]
    assert list(named_outputs([y, (y, None)])) == ["output_0", "output_1_0"]
    assert list(named_outputs({"out": y, "aux": [y]})) == ["out", "aux_0"]
    with refuses(ExportError):
        named_outputs("no")


@pytest.mark.parametrize(
    "example",
    ["no", Path("net.onnx"), (), (torch.zeros(2, 3), torch.zeros(3)), torch.zeros(()), torch.zeros(0, 3)],
    ids=["a text", "a path", "no tensor", "unlike batches", "no batch", "empty"],
)
def test_other_examples_are_refused(example: Any) -> None:
    with refuses(ExportError, "`example`"):
        verify(lambda x: x, nn.Identity(), example, runtime="twin")
