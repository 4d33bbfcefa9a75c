"""What is particular to ODConv: four attentions, some absent, and a batch norm in the branch."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv.families import ODConv2d, ODConvCoefficients, set_temperature
from dynaconv.families.contract.norms import LatentBatchNorm2d
from dynaconv.families.odconv import reference_odconv_kernel
from tests.helpers import TOLERANCE, count
from tests.messages import refuses, spelled


def lively(*arguments: Any, dtype: torch.dtype | None = None, **options: Any) -> tuple[ODConv2d, Tensor]:
    """A layer whose logits differ by several units, its batch norm away from its fresh state, and an input."""
    layer = ODConv2d(*(arguments or (6, 10, 3)), dtype=dtype, **options)
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if "norm." in name and tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif "heads." in name:
            nn.init.normal_(tensor, std=1.0)
    return layer, torch.randn(5, layer.in_channels, 7, 4, dtype=dtype)


def parts(coefficients: ODConvCoefficients) -> dict[str, Tensor]:
    return {name: part for name, part in coefficients._asdict().items() if part is not None}


def statistics(layer: ODConv2d) -> list[Tensor]:
    return [buffer.clone() for buffer in layer.branch.norm.buffers()]


@pytest.mark.parametrize(
    ("arguments", "options", "names"),
    [
        ((6, 10, 3), {}, {"channel", "filter", "spatial", "kernel"}),
        ((6, 10, 1), {}, {"channel", "filter", "kernel"}),
        ((6, 10, (1, 3)), {"num_kernels": 1}, {"channel", "filter", "spatial"}),
        ((6, 10, 1), {"num_kernels": 1}, {"channel", "filter"}),
        ((6, 6, 3), {"groups": 6}, {"channel", "spatial", "kernel"}),
        ((6, 12, 3), {"groups": 6}, {"channel", "filter", "spatial", "kernel"}),
        ((6, 6, 1), {"groups": 6, "num_kernels": 1}, {"channel"}),
    ],
)
def test_attention_that_says_nothing_is_absent(arguments: tuple[Any, ...], options: dict[str, Any], names: set[str]):
    layer, x = lively(*arguments, **options)
    assert set(layer.branch.heads) == set(parts(layer.coefficients(x))) == names
    shapes = {"channel": (5, 6), "filter": (5, arguments[1]), "spatial": (5, *layer.kernel_size), "kernel": (5, 4)}
    assert {name: tuple(part.shape) for name, part in parts(layer.coefficients(x)).items()} == {
        name: shape for name, shape in shapes.items() if name in names
    }
    assert layer.neutral_gain == 0.5 ** len(names - {"kernel"})


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("groups", [1, 2])
def test_kernel_is_the_equation_of_the_branch(training: bool, groups: int) -> None:
    layer, x = lively(6, 10, (2, 3), groups=groups, temperature=2.0, dtype=torch.float64)
    layer.train(training)
    branch = layer.branch
    hidden = x.mean((2, 3)) @ branch.squeeze.weight.T
    norm = branch.norm
    mean, variance = (
        (hidden.mean(0), hidden.var(0, correction=0)) if training else (norm.running_mean, norm.running_var)
    )
    hidden = torch.relu((hidden - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias)
    logits = {name: hidden @ head.weight.T + head.bias for name, head in branch.heads.items()}
    logits["spatial"] = logits["spatial"].reshape(5, 2, 3)
    temperature = layer.temperature.double()
    for sample, kernel in enumerate(layer.kernel(x)):
        want = reference_odconv_kernel(ODConvCoefficients(**logits), layer.weight, temperature, layer.geometry, sample)
        torch.testing.assert_close(kernel, want, **TOLERANCE["float64"])


def test_only_forward_in_train_mode_moves_the_running_statistics() -> None:
    layer, x = lively()
    before = statistics(layer)
    for ask in (layer.coefficients, layer.logits, layer.kernel, layer.sample_bias):
        ask(x)
    layer.eval()(x)
    assert all(torch.equal(old, new) for old, new in zip(before, statistics(layer), strict=True))
    layer.train()(x)
    assert not any(torch.equal(old, new) for old, new in zip(before, statistics(layer), strict=True))


def test_forward_moves_the_running_statistics_as_a_batch_norm_does() -> None:
    layer, x = lively()
    norm = nn.BatchNorm2d(layer.branch.squeeze.out_features)
    norm.load_state_dict(layer.branch.norm.state_dict())
    norm(layer.branch.squeeze(x.mean((2, 3)))[:, :, None, None])
    layer(x)
    torch.testing.assert_close(statistics(layer), list(norm.buffers()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_layer_normalises_in_float32(dtype: torch.dtype) -> None:
    layer, x = lively()
    layer, x = layer.to(dtype), x.to(dtype)
    twin, before = copy.deepcopy(layer).float(), statistics(layer)
    want = twin.coefficients(x.float())
    got = layer.coefficients(x)
    assert all(part.dtype == torch.float32 for part in parts(got).values())
    torch.testing.assert_close(parts(got), parts(want), **TOLERANCE["float32"])
    assert all(torch.equal(old, new) for old, new in zip(before, statistics(layer), strict=True))
    layer(x).float().sum().backward()
    twin(x.float())
    assert layer.branch.norm.running_mean.dtype == dtype
    torch.testing.assert_close(layer.branch.norm.running_mean, twin.branch.norm.running_mean.to(dtype))
    torch.testing.assert_close(layer.branch.norm.running_var, twin.branch.norm.running_var.to(dtype))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_sample_in_train_mode_takes_running_statistics(dtype: torch.dtype) -> None:
    layer, x = lively()
    layer, x = layer.to(dtype), x[:1].to(dtype)
    before = statistics(layer)
    got = layer.train()(x)
    assert torch.equal(got, layer.eval()(x))
    assert all(torch.equal(old, new) for old, new in zip(before, statistics(layer), strict=True))


def test_empty_batch_leaves_the_running_statistics_alone() -> None:
    layer, x = lively()
    before = statistics(layer)
    assert layer.train()(x[:0]).shape == (0, 10, 5, 2)
    assert all(torch.equal(old, new) for old, new in zip(before, statistics(layer), strict=True))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_synchronised_batch_norm_may_take_the_norms_place(training: bool) -> None:
    layer, x = lively()
    other = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(layer)).train(training)
    assert isinstance(layer.branch.norm, LatentBatchNorm2d)
    assert isinstance(other.branch.norm, nn.SyncBatchNorm)
    torch.testing.assert_close(other.kernel(x), layer.train(training).kernel(x))
    torch.testing.assert_close(other(x), layer(x))
    torch.testing.assert_close(statistics(other), statistics(layer))


def test_temperature_decides_between_even_and_decided() -> None:
    layer, x = lively()
    set_temperature(layer, 1e6)
    for name, part in parts(layer.coefficients(x)).items():
        torch.testing.assert_close(
            part, torch.full_like(part, 0.25 if name == "kernel" else 0.5), **TOLERANCE["float32"]
        )
    set_temperature(layer, 1e-5)
    logits = parts(layer.logits(x))
    for name, part in parts(layer.coefficients(x)).items():
        sign = nn.functional.one_hot(logits[name].argmax(1), 4) if name == "kernel" else logits[name] > 0
        torch.testing.assert_close(part, sign.float(), **TOLERANCE["float32"])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("temperature", [0.1, 30.0])
def test_neutral_start_holds_at_every_temperature(temperature: float, training: bool) -> None:
    conv, x = nn.Conv2d(6, 10, 3, dtype=torch.float64), torch.randn(2, 6, 7, 5, dtype=torch.float64)
    layer = ODConv2d.from_conv(conv.train(training), temperature=temperature)
    torch.testing.assert_close(layer.weight.mean(0) / 8, conv.weight, **TOLERANCE["float64"])
    torch.testing.assert_close(layer(x), conv(x), **TOLERANCE["float64"])


@pytest.mark.parametrize("groups", [1, 6], ids=["full", "depthwise"])
@pytest.mark.parametrize("num_kernels", [1, 4])
def test_a_step_turns_a_fresh_layer_before_a_batch_norm_as_far_as_a_static_one(groups: int, num_kernels: int) -> None:
    conv = nn.Conv2d(6, 6, 3, groups=groups, bias=False, dtype=torch.float64)
    layer = ODConv2d.fresh_like(conv, num_kernels=num_kernels)
    layer._neutralise()
    x, target = torch.randn(4, 6, 9, 7, dtype=torch.float64), torch.randn(4, 6, 7, 5, dtype=torch.float64)
    for module in (conv, layer):
        # With a number this small in the norm the kernel's scale has no effect at all.
        norm = nn.BatchNorm2d(6, eps=1e-30, dtype=torch.float64)
        (norm(module(x)) * target).sum().backward()
    assert conv.weight.grad is not None
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.mean(0), conv.weight, **TOLERANCE["float64"])
    torch.testing.assert_close(layer.weight.grad.sum(0), conv.weight.grad, **TOLERANCE["float64"])


def test_every_part_leaves_the_neutral_start() -> None:
    conv, x = nn.Conv2d(6, 10, 3), torch.randn(4, 6, 7, 5)
    layer = ODConv2d.from_conv(conv)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.01)
    for _ in range(2):
        optimiser.zero_grad()
        layer(x).square().sum().backward()
        optimiser.step()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


def test_bias_is_added_as_it_is() -> None:
    layer, x = lively()
    assert layer.bias is not None
    without = copy.deepcopy(layer)
    without.bias = None
    want = without(x) + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), want)
    assert torch.equal(layer.sample_bias(x), layer.bias.expand(5, 10))
    assert without.sample_bias(x) is None


@pytest.mark.parametrize(
    ("options", "hidden"), [({}, 16), ({"reduction": 4}, 24), ({"reduction": 16, "min_hidden_channels": 1}, 6)]
)
def test_parameters_are_the_kernels_and_the_branch(options: dict[str, int], hidden: int) -> None:
    layer = ODConv2d(96, 10, 3, num_kernels=3, **options)
    assert layer.branch.squeeze.out_features == hidden
    assert f"num_kernels=3, hidden_channels={hidden}" in repr(layer)
    assert count(layer) == 3 * 96 * 10 * 9 + 10 + 96 * hidden + 2 * hidden + (hidden + 1) * (96 + 10 + 9 + 3)


def test_fresh_layer_starts_its_branch_as_published() -> None:
    branch = ODConv2d(512, 384, 1, num_kernels=2, reduction=1).branch
    heads = branch.heads
    for weight, fan_out in (
        (branch.squeeze.weight, 512),
        (heads["channel"].weight, 512),
        (heads["filter"].weight, 384),
    ):
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
    assert all(not head.bias.any() for head in heads.values())


@pytest.mark.parametrize(
    "options",
    [
        {"num_kernels": 0},
        {"num_kernels": 2.0},
        {"reduction": 0.0625},
        {"min_hidden_channels": 0},
        {"temperature": 0},
        {"algorithm": "factored"},
    ],
    ids=spelled,
)
def test_mistakes_in_arguments(options: dict[str, Any]) -> None:
    with refuses(ValueError, next(iter(options))):
        ODConv2d(6, 10, 3, **options)


def test_mistakes_in_inputs() -> None:
    layer, x = lively()
    for ask in (layer, layer.kernel, layer.coefficients):
        with refuses(ValueError, "in_channels"):
            ask(x[:, :4])
    with refuses(ValueError, "unsqueeze"):
        layer(x[0])
