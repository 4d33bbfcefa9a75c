"""Compares every kernel with the layer in float64, over random geometries."""

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import DCDConv2d, deploy
from dynaconv.deployment.backends import Precision
from dynaconv.families.contract.deployed import DeployedLayer
from dynaconv.native import BuildError, NativeProgram
from dynaconv.native.toolchain import build

try:
    build()
except BuildError as error:
    pytest.skip(str(error), allow_module_level=True)


def random_geometry(draw: random.Random) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """Return the arguments of a convolution except its channels, and (B, H, W) of a valid input."""
    kernel = (draw.choice([1, 1, 2, 3, 3, 4, 5, 7]), draw.choice([1, 1, 2, 3, 3, 4, 5, 7]))
    dilation = (draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2, 3]))
    padding: Any = draw.choice([(0, 0), tuple((k - 1) // 2 for k in kernel), (draw.randint(0, 4), draw.randint(0, 4))])
    stride = (draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2, 3]))
    min_size = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = tuple(max(1, n - 2 * p) + draw.randint(0, 20) for n, p in zip(min_size, padding, strict=True))
    arguments = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return arguments, (draw.choice([1, 2, 5]), *size)


def depthwise_geometry(draw: random.Random, fast: bool) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """As `random_geometry`; if ``fast``, a geometry for which there is a specialised kernel."""
    arguments, size = random_geometry(draw)
    if fast:
        side = draw.choice([3, 5, 7])
        arguments |= {"kernel_size": side, "padding": side // 2, "dilation": 1, "stride": draw.choice([1, 2])}
    return arguments, size


def randomise_heads(layer: nn.Module) -> nn.Module:
    """Give the branches random heads, so that the dynamic part of a kernel is about as large as the static one."""
    for module in layer.modules():
        if hasattr(module, "branch"):
            for head in module.branch.heads.values():
                nn.init.normal_(head.weight, std=0.5)
    return layer


def check(layer: nn.Module, x: Tensor, rtol: float = 1e-5) -> None:
    """Compare native in each precision with torch in float64; the tolerance is ``rtol`` of the largest value."""
    references: dict[Precision, nn.Module] = {"float32": copy.deepcopy(layer).eval(), "bf16": rounded(layer)}
    for precision, reference in references.items():
        native = deploy(layer, backend="native", precision=precision)
        programs = [module for module in native.modules() if isinstance(module, NativeProgram)]
        assert programs
        for program in programs:
            # A fallback to torch raises an error.
            program.original.forward = None
        with torch.no_grad():
            want = reference.double()(x.double())
            got = native(x)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, rtol=0, atol=rtol * float(want.abs().max()))


def rounded(layer: nn.Module) -> nn.Module:
    """Return the deployed form with all kernels rounded to bfloat16, in float32."""
    network = deploy(layer)
    for module in network.modules():
        if isinstance(module, DeployedLayer):
            module.stored_kernel.data = module.stored_kernel.data.bfloat16().float()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = module.weight.data.bfloat16().float()
    return network


@pytest.mark.parametrize("seed", range(30))
def test_static_convolutions(seed: int) -> None:
    draw = random.Random(seed)
    arguments, (batch, height, width) = random_geometry(draw)
    channels = draw.choice([1, 2, 3, 8, 16, 19, 24, 33, 48]), draw.choice([1, 5, 8, 16, 24, 40, 50])
    conv = nn.Conv2d(*channels, bias=draw.random() < 0.7, **arguments)
    check(
        nn.Sequential(conv, draw.choice([nn.Identity(), nn.ReLU(), nn.ReLU6()])),
        torch.randn(batch, channels[0], height, width),
    )


@pytest.mark.parametrize("seed", range(30))
def test_depthwise_convolutions(seed: int) -> None:
    draw = random.Random(seed)
    arguments, (batch, height, width) = depthwise_geometry(draw, fast=bool(seed % 2))
    channels = draw.choice([2, 8, 16, 24, 35])
    conv = nn.Conv2d(channels, channels, groups=channels, **arguments)
    check(nn.Sequential(conv, nn.ReLU6()), torch.randn(batch, channels, height, width))


@pytest.mark.parametrize("seed", range(20))
def test_grouped_convolutions(seed: int) -> None:
    draw = random.Random(seed)
    arguments, (batch, height, width) = random_geometry(draw)
    groups = draw.choice([2, 3, 5, 8])
    inputs, outputs = groups * draw.choice([1, 2, 4, 7, 8, 16, 24]), groups * draw.choice([1, 2, 5, 8, 16, 33])
    conv = nn.Conv2d(inputs, outputs, groups=groups, bias=draw.random() < 0.5, **arguments)
    # What it reads is another step's result, whose last block of channels may be incomplete.
    network = nn.Sequential(nn.Conv2d(3, inputs, 1), nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(outputs, 4, 1))
    check(network, torch.randn(batch, 3, height, width))


def test_a_grouped_convolution_fused_with_the_depthwise_step_after_it() -> None:
    layers = nn.Conv2d(24, 144, 1, groups=3), nn.ReLU(), nn.Conv2d(144, 144, 3, padding=1, groups=144)
    check(nn.Sequential(*layers), torch.randn(2, 24, 15, 21))


@torch.no_grad()
def test_a_group_reads_no_padding_of_its_input() -> None:
    """The lanes behind the last channel hold what an earlier image left there."""
    network = nn.Sequential(nn.Conv2d(8, 40, 1), nn.Conv2d(40, 24, 1), nn.Conv2d(24, 24, 1, groups=3)).eval()
    native, x = deploy(network, backend="native"), torch.randn(1, 8, 5, 5)
    assert native(torch.full_like(x, torch.nan)).isnan().all()
    torch.testing.assert_close(native(x), network(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_max_pooling(seed: int) -> None:
    draw = random.Random(seed)
    kernel, dilation, channels = draw.choice([1, 2, 3, 5]), draw.choice([1, 1, 2]), draw.choice([3, 16, 20])
    pool = nn.MaxPool2d(kernel, draw.choice([1, 2, 3]), draw.randint(0, kernel // 2), dilation)
    x = torch.randn(draw.choice([1, 3]), channels, draw.randint(9, 20), draw.randint(9, 20))
    network = nn.Sequential(nn.Conv2d(channels, channels, 1), pool)
    check(network, x)
    x[0, 0, 3, 4] = torch.nan
    with torch.no_grad():
        got, want = deploy(network, backend="native")(x), network(x)
    assert torch.equal(got.isnan(), want.isnan())


@pytest.mark.parametrize("algorithm", ["auto", "kernel", "factored"])
@pytest.mark.parametrize("seed", range(12))
def test_dcd(seed: int, algorithm: str) -> None:
    draw = random.Random(seed)
    arguments, (batch, height, width) = random_geometry(draw)
    if seed % 2:
        arguments = {"kernel_size": 1}
    channels = draw.choice([4, 16, 24, 40]), draw.choice([8, 20, 48])
    variant = draw.choice(["full", "full", "scale", "residual"])
    layer = DCDConv2d(
        *channels,
        **arguments,
        variant=variant,
        blocks=None if variant == "scale" else draw.choice([1, 1, 2, 4]),
        hidden_channels=draw.choice([3, 8, 20]),
        context_size=draw.choice([1, 2]),
        activation=draw.choice(["relu", "relu6", "silu", "gelu", "hardswish", "gate"]),
        hidden_norm=draw.choice(["unit", None]),
        algorithm=algorithm,
    )
    check(randomise_heads(layer), torch.randn(batch, channels[0], height, width))


@pytest.mark.parametrize("seed", range(16))
def test_depthwise_dcd(seed: int) -> None:
    draw = random.Random(seed)
    arguments, (batch, height, width) = depthwise_geometry(draw, fast=bool(seed % 2))
    channels = draw.choice([2, 8, 16, 24, 35, 70])
    variant = draw.choice(["full", "full", "scale", "residual"])
    scale = {} if variant == "residual" else {"scale_activation": draw.choice(["linear", "hard_sigmoid"])}
    layer = DCDConv2d(
        channels,
        channels,
        groups=channels,
        bias=draw.random() < 0.5,
        **arguments,
        **scale,
        variant=variant,
        hidden_channels=draw.choice([3, 8, 20]),
        context_size=draw.choice([1, 2]),
        algorithm=draw.choice(["auto", "kernel", "factored"]),
    )
    # A dense step before it, which is not fused since its result is pooled first.
    network = nn.Sequential(nn.Conv2d(3, channels, 1), randomise_heads(layer), nn.ReLU6(), nn.Conv2d(channels, 4, 1))
    check(network, torch.randn(batch, 3, height, width))


@pytest.mark.parametrize("scale_activation", ["linear", "hard_sigmoid", "sigmoid", "tanh"])
@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("bias", [False, True])
def test_dcd_parameterisations(scale_activation: str, norm: str | None, bias: bool) -> None:
    for variant in ("full", "scale"):
        layer = DCDConv2d(24, 40, 1, bias=bias, variant=variant, norm=norm, scale_activation=scale_activation)
        if norm and variant == "full":
            for part in (layer.norm1, layer.norm2):
                nn.init.uniform_(part.running_mean)
                nn.init.uniform_(part.running_var, 0.5, 2)
        for size in (3, 15):
            check(randomise_heads(layer), torch.randn(2, 24, size, size))
