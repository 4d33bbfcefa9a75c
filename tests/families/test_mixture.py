"""What CondConv and DY-Conv share: K stacked kernels that start around a static one and can leave it."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from dynaconv.families import CondConv2d, DYConv2d, KernelMixture, KernelMixture2d
from dynaconv.families.condconv import reference_condconv
from dynaconv.families.dyconv import reference_dyconv
from dynaconv.ops import cheapest
from tests.helpers import TOLERANCE
from tests.messages import refuses

FAMILIES: list[type[KernelMixture2d]] = [CondConv2d, DYConv2d]
OPTIONS = {CondConv2d: "num_experts", DYConv2d: "num_kernels"}


def deviations(stacked: Tensor) -> Tensor:
    return stacked.detach() - stacked.detach().mean(0)


def images(batch: int = 4) -> Tensor:
    # Contrast between samples, so that attention can differ.
    return torch.randn(batch, 6, 7, 5, dtype=torch.float64) * torch.arange(1, batch + 1)[:, None, None, None]


def descend(layer: nn.Module, x: Tensor, steps: int) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), 0.05)
    target = torch.randn_like(layer(x)).detach()
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", FAMILIES)
def test_static_state_sets_the_mean_and_keeps_the_differences(kind: type[KernelMixture2d]) -> None:
    conv, layer = nn.Conv2d(6, 10, 3, dtype=torch.float64), kind(6, 10, 3, dtype=torch.float64)
    old = {name: value.detach().clone() for name, value in layer.named_parameters()}
    result = layer.load_state_dict(conv.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert "weight" not in result.missing_keys
    static = dict(conv.named_parameters())
    for name, value in layer.named_parameters():
        if name.startswith("branch"):
            assert torch.equal(value, old[name])
            continue
        torch.testing.assert_close(deviations(value), deviations(old[name]), **TOLERANCE["float64"])
        torch.testing.assert_close(value.mean(0) * layer.neutral_gain, static[name], **TOLERANCE["float64"])
        assert deviations(value).abs().max() > 1e-2


@pytest.mark.parametrize("kind", FAMILIES)
def test_static_state_loads_inside_a_network(kind: type[KernelMixture2d]) -> None:
    static = nn.Sequential(nn.Conv2d(6, 10, 3), nn.BatchNorm2d(10))
    dynamic = nn.Sequential(kind(6, 10, 3), nn.BatchNorm2d(10))
    dynamic.load_state_dict(static.state_dict(), strict=False)
    layer = dynamic[0]
    assert isinstance(layer, KernelMixture)
    first = static[0].weight
    assert isinstance(first, Tensor)
    torch.testing.assert_close(layer.weight.mean(0) * layer.neutral_gain, first, **TOLERANCE["float32"])


@pytest.mark.parametrize("kind", FAMILIES)
def test_stacked_weights_load_as_they_are(kind: type[KernelMixture2d]) -> None:
    layer, fresh = kind(6, 10, 3), kind(6, 10, 3)
    weights = {name: value for name, value in layer.state_dict().items() if name in ("weight", "bias")}
    fresh.load_state_dict(weights, strict=False)
    assert torch.equal(fresh.weight, layer.weight)


@pytest.mark.parametrize("kind", FAMILIES)
def test_neutral_start_can_leave_symmetry(kind: type[KernelMixture2d]) -> None:
    layer, x = kind.from_conv(nn.Conv2d(6, 10, 3, dtype=torch.float64)), images()
    start, neutral = deviations(layer.weight), layer.coefficients(x).attention
    descend(layer, x, 1)
    # At neutral weights the kernels' gradients are equal, so the attention moves first, and per sample.
    torch.testing.assert_close(deviations(layer.weight), start, **TOLERANCE["float64"])
    attention = layer.coefficients(x).attention
    assert (attention - neutral).abs().max() > 1e-6
    assert attention.std(0).max() > 1e-7
    descend(layer, x, 1)
    assert (deviations(layer.weight) - start).abs().max() > 1e-8


@pytest.mark.parametrize("kind", FAMILIES)
def test_equal_kernels_could_not(kind: type[KernelMixture2d]) -> None:
    layer, x = kind.from_conv(nn.Conv2d(6, 10, 3, dtype=torch.float64)), images()
    with torch.no_grad():
        for stacked in (layer.weight, layer.bias):
            assert stacked is not None
            stacked.copy_(stacked.mean(0).expand_as(stacked).clone())
    descend(layer, x, 5)
    assert deviations(layer.weight).abs().max() < 1e-12
    attention = layer.coefficients(x).attention
    assert (attention - attention[:, :1]).abs().max() < 1e-12


@pytest.mark.parametrize("algorithm", ["kernel", "mixed", "grouped", "auto"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_single_kernel(kind: type[KernelMixture2d], algorithm: str) -> None:
    conv, x = nn.Conv2d(6, 10, 3, dtype=torch.float64), images()
    layer = kind.from_conv(conv, **{OPTIONS[kind]: 1, "algorithm": algorithm})
    torch.testing.assert_close(layer(x), conv(x), **TOLERANCE["float64"])
    fresh = kind.like(conv, **{OPTIONS[kind]: 1, "algorithm": algorithm})
    # A softmax over one kernel is 1; a sigmoid scales it. A scaled kernel starts as twice the static one.
    gate = fresh.coefficients(x).attention[:, :, None, None] / fresh.neutral_gain
    torch.testing.assert_close(fresh(x), conv(x) * gate, **TOLERANCE["float64"])


@pytest.mark.parametrize("kind", FAMILIES)
def test_kernels_start_independent(kind: type[KernelMixture2d]) -> None:
    layer = kind(16, 32, 3)
    bound = (16 * 9) ** -0.5
    flat = layer.weight.detach().flatten(1)
    assert (flat.std(1) / bound * 3**0.5 - 1).abs().max() < 0.05
    correlation = torch.corrcoef(flat) - torch.eye(layer.num_kernels)
    assert correlation.abs().max() < 0.1
    assert layer.bias is not None
    assert layer.bias.abs().max() <= bound


@pytest.mark.parametrize("shape", [(1, 6, 5, 5), (8, 6, 28, 28), (64, 6, 7, 7)])
@pytest.mark.parametrize("kind", FAMILIES)
def test_auto_runs_the_cheapest(kind: type[KernelMixture2d], shape: tuple[int, int, int, int]) -> None:
    layer, x = kind(6, 10, 3), torch.randn(shape)
    costs = layer.algorithm_costs(shape)
    assert tuple(costs) == layer.algorithms
    ran: list[str] = []

    def spy(name: str) -> Any:
        return lambda *args: ran.append(name) or torch.zeros(1, 10, 1, 1)

    with patch.dict(KernelMixture._functions, {name: spy(name) for name in costs}):
        layer(x)
        assert ran == [cheapest(costs)]
        with patch("dynaconv.families.contract.convolution.is_exporting", return_value=True):
            layer(x)
    assert ran[1:] == ["kernel"]


@pytest.mark.same_messages_for("kind")
@pytest.mark.parametrize("kind", FAMILIES)
def test_wrong_arguments_are_explained(kind: type[KernelMixture2d]) -> None:
    with refuses(ValueError, option=OPTIONS[kind]):
        kind(6, 10, 3, **{OPTIONS[kind]: 0})
    with refuses(ValueError, "algorithm"):
        kind(6, 10, 3, algorithm="mix")  # type: ignore[call-arg]
    layer = kind(6, 10, 3)
    with refuses(ValueError, "grouped"):
        layer.algorithm = "group"  # type: ignore[assignment]
    with refuses(ValueError, "in_channels", layer=kind.__name__):
        layer.logits(torch.randn(2, 5, 7, 7))


@pytest.mark.parametrize("algorithm", ["kernel", "mixed", "grouped"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_residual_mixture_agrees_with_its_reference(kind: type[KernelMixture2d], algorithm: Any) -> None:
    options: dict[str, Any] = {OPTIONS[kind]: 3, "residual": True, "algorithm": algorithm}
    layer, x = kind(6, 8, 3, stride=2, padding=1, groups=2, **options).double(), images().requires_grad_()
    assert layer.weight.shape == (4, 8, 3, 3, 3)
    assert layer.coefficients(x).attention.shape == (4, 3)
    logits, parts = layer.logits(x), (layer.weight, layer.bias)
    if kind is DYConv2d:
        want = reference_dyconv(x, logits, *parts, torch.tensor(1.0), layer.geometry, residual=True)
    else:
        want = reference_condconv(x, logits, *parts, layer.geometry, residual=True)
    got, inputs = layer(x), [x, *layer.parameters()]
    upstream = torch.randn_like(got)
    gradients = [torch.autograd.grad(out, inputs, upstream) for out in (got, want)]
    torch.testing.assert_close((got, *gradients[0]), (want, *gradients[1]), **TOLERANCE["float64"])


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_residual_mixture_starts_at_the_static_kernel_and_leaves_it(kind: type[KernelMixture2d]) -> None:
    conv, x = nn.Conv2d(6, 8, 3, dtype=torch.float64), images()
    layer = kind.from_conv(conv, residual=True)
    assert torch.equal(layer.weight[0], conv.weight)
    assert layer.weight[1:].std(0).mean() > 1e-2
    torch.testing.assert_close(layer.weight[1:].mean(0), torch.zeros_like(conv.weight), **TOLERANCE["float64"])
    torch.testing.assert_close(layer(x), conv(x), **TOLERANCE["float64"])
    torch.testing.assert_close(layer.static_conv()(x), conv(x), **TOLERANCE["float64"])
    # With a neutral branch, the kernels dW_k still count.
    with torch.no_grad():
        layer.weight[1:] += 0.1
    torch.testing.assert_close(layer.static_conv()(x), layer(x), **TOLERANCE["float64"])
    layer = kind.from_conv(conv, residual=True)
    descend(layer, x, 5)
    assert layer.coefficients(x).attention.std(0).max() > 1e-4
