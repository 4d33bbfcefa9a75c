"""Native programs in int8, compared with torch that quantises in the same way and adds up integers exactly."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv import CondConv2d, DCDConv2d, DYConv2d, KernelWarehouseConv2d, ODConv2d, SEConv2d, deploy
from dynaconv.errors import ConversionError
from dynaconv.native import NativeProgram, instruction_set
from dynaconv.native.int8 import in_int8
from dynaconv.native.library import int8_instruction_set
from dynaconv.native.lowering import lower
from dynaconv.native.replace import replace
from dynaconv.native.steps import FIELDS, PRECISIONS
from tests.messages import refuses
from tests.native.test_layers import random_geometry, randomise_heads
from tests.native.test_program import SETS

INT8 = PRECISIONS["int8"]


def native_int8(model: nn.Module) -> nn.Module:
    """Deploy a network in int8, also where int8 is slow; a fallback to torch is an error."""
    network, _ = replace(deploy(model), "int8")
    programs = [module for module in network.modules() if isinstance(module, NativeProgram)]
    assert programs
    for program in programs:
        program.original.forward = None
    return network


def precisions(program: NativeProgram) -> list[int]:
    """Return the precision of each step."""
    assert program.steps is not None
    return list(program.steps.view(-1, len(FIELDS))[:, FIELDS.index("precision")])


def quantised_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return integers of a weight, whose last axes are those of a filter, and the scale of each filter."""
    axes = (-3, -2, -1)
    scale = weight.abs().amax(axes, keepdim=True) / 127
    return (weight / torch.where(scale > 0, scale, 1)).round().double(), scale.double()


def quantised_input(x: Tensor, *, each_pixel: bool) -> tuple[Tensor, Tensor]:
    """Return the integers of images, less their zero point, and the scale of each pixel or image."""
    axes = (1,) if each_pixel else (1, 2, 3)
    low, high = x.amin(axes, keepdim=True).clamp(max=0), x.amax(axes, keepdim=True).clamp(min=0)
    reach = high - low
    inverse = torch.where(reach > 1e-30, 255 / reach, 0)
    zero = (-low * inverse).round()
    values = ((x * inverse).round() + zero).clamp(0, 255) - zero
    return values.double(), (reach * torch.tensor(1 / 255)).double()


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, **geometry: Any) -> Tensor:
    """Convolve quantised images with quantised weights in float64, where all these integers are exact.

    Args:
        x: Images, ``(B, C_in, H, W)``.
        weight: ``(C_out, C_in, k_h, k_w)``.
        bias: ``(C_out,)``.
        **geometry: ``stride``, ``padding`` and ``dilation``.
    """
    each_pixel = weight.shape[2:] == (1, 1)
    values, scale = quantised_input(x, each_pixel=each_pixel)
    integers, weight_scale = quantised_weight(weight)
    out = F.conv2d(values, integers, **geometry) * weight_scale.flatten()[:, None, None]
    if each_pixel:
        stride_h, stride_w = nn.Conv2d(1, 1, 1, geometry.get("stride", 1)).stride
        scale = scale[:, :, ::stride_h, ::stride_w]
    out = out * scale
    return out if bias is None else out + bias.double()[:, None, None]


def assert_close(got: Tensor, want: Tensor, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(got.double(), want, rtol=0, atol=rtol * float(want.abs().max()))


@pytest.mark.parametrize("seed", range(40))
@torch.no_grad()
def test_static_convolutions(seed: int) -> None:
    draw = random.Random(seed)
    arguments, (batch, height, width) = random_geometry(draw)
    if seed % 2 or arguments["kernel_size"] == (1, 1):
        arguments = {"kernel_size": 1, "stride": draw.choice([1, 1, 2, (2, 3)])}
    channels = draw.choice([16, 19, 24, 33, 64, 70, 130]), draw.choice([16, 24, 40, 50, 77])
    conv = nn.Conv2d(*channels, bias=draw.random() < 0.7, **arguments)
    x = torch.randn(batch, channels[0], height, width) + draw.choice([0, 0, 1])
    network = native_int8(conv.eval())
    assert precisions(network) == [INT8]
    geometry = {name: arguments[name] for name in ("stride", "padding", "dilation") if name in arguments}
    assert_close(network(x), reference(x, conv.weight, conv.bias, **geometry))


@torch.no_grad()
def test_linear_layers_of_vectors_and_tokens() -> None:
    linear = nn.Linear(70, 50).eval()
    network = nn.Sequential(nn.Conv2d(3, 70, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).eval()
    x = torch.randn(3, 3, 7, 5)
    want = reference(network[:3](x)[:, :, None, None], linear.weight[:, :, None, None], linear.bias)
    assert_close(native_int8(network)(x), want[:, :, 0, 0], rtol=1e-2)


@torch.no_grad()
def test_what_int8_does_not_serve_stays_in_float32() -> None:
    """Few channels, groups, depthwise convolutions, padding of a single tap, and weights that are not finite."""
    broken = nn.Conv2d(32, 32, 1)
    broken.weight[3, 4] = torch.inf
    layers = [
        nn.Conv2d(3, 32, 3),
        nn.Conv2d(32, 8, 1),
        nn.Conv2d(32, 32, 1, groups=2),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 32, 1, padding=1),
        broken,
    ]
    for layer in layers:
        (step,) = lower(layer)
        assert in_int8(step) is step
    large = nn.Conv2d(8200, 16, 3)
    (step,) = lower(large)
    assert in_int8(step) is step


def dcd_reference(layer: DCDConv2d, x: Tensor) -> Tensor:
    """Return Lambda (W0 x) + P Phi Q^T x + bias, with W0 and Q in int8."""
    coefficients = layer.coefficients(x)
    centre = x[:, :, :: layer.stride[0], :: layer.stride[1]]
    static = reference(x, layer.weight, None, stride=layer.stride, padding=layer.padding)
    out = coefficients.scale[:, :, None, None].double() * static
    each_pixel = layer.kernel_size == (1, 1)
    values, scale = quantised_input(x, each_pixel=each_pixel)
    values, scale = (values * scale).double(), 1.0
    integers, q_scale = quantised_weight(layer.q.T[:, :, None, None])
    latent = F.conv2d(values, integers * q_scale, stride=layer.stride)[:, :, : centre.shape[2], : centre.shape[3]]
    mixed = torch.einsum("bml,blhw->bmhw", coefficients.fusion.double(), latent)
    out = out + torch.einsum("om,bmhw->bohw", layer.p.double(), mixed)
    return out if layer.bias is None else out + layer.bias.double()[:, None, None]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_dcd_by_its_factors(kernel: int, stride: int) -> None:
    layer = DCDConv2d(40, 56, kernel, stride, kernel // 2, bias=True, algorithm="factored").eval()
    randomise_heads(layer)
    x = torch.randn(3, 40, 9, 11)
    network = native_int8(layer)
    assert precisions(network) == [INT8]
    assert_close(network(x), dcd_reference(layer, x), rtol=1e-4)


def formed_reference(layer: Any, x: Tensor) -> Tensor:
    """Convolve each sample with its own kernel, which is quantised when it is formed."""
    kernels = layer.kernel(x)
    geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    return torch.cat([reference(x[n : n + 1], kernels[n], layer.bias, **geometry) for n in range(len(x))])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("channels", [(40, 56), (33, 24)])
@torch.no_grad()
def test_dcd_by_its_kernel(channels: tuple[int, int], bias: bool) -> None:
    layer = randomise_heads(DCDConv2d(*channels, 1, bias=bias, algorithm="kernel")).eval()
    x = torch.randn(3, channels[0], 9, 11)
    # W0 is stored in int8 too, so that two roundings differ from one.
    assert_close(native_int8(layer)(x), formed_reference(layer, x), rtol=2e-2)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda **geometry: ODConv2d(24, 40, num_kernels=2, **geometry),
        lambda **geometry: DYConv2d(24, 40, num_kernels=4, bias=False, **geometry),
        lambda **geometry: CondConv2d(24, 40, num_experts=2, bias=False, **geometry),
        lambda **geometry: KernelWarehouseConv2d(24, 40, temperature=0.3, **geometry),
    ],
    ids=["odconv", "dyconv", "condconv", "kernel_warehouse"],
)
@torch.no_grad()
def test_formed_kernels(make: Any, kernel: int) -> None:
    layer = make(kernel_size=kernel, padding=kernel // 2).eval()
    x = torch.randn(3, 24, 9, 11)
    network = native_int8(layer)
    assert precisions(network) == [INT8]
    # A kernel formed in another order of additions may be rounded to the next integer.
    assert_close(network(x), formed_reference(layer, x), rtol=2e-3)


def error(got: Tensor, want: Tensor) -> float:
    """Return the size of a difference, relative to that of ``want``."""
    return float((got - want).norm() / want.norm())


@torch.no_grad()
def test_channel_scales_alone() -> None:
    """A pointwise SE layer, and DCD without a residual: only a scale depends on the input."""
    x = torch.randn(3, 24, 9, 11)
    for layer in (SEConv2d(24, 40, 1), DCDConv2d(24, 40, 1, variant="scale")):
        network = native_int8(randomise_heads(layer.eval()))
        assert INT8 in precisions(network)
        assert error(network(x), layer(x)) < 0.01


class Quantised(nn.Module):
    """A convolution or linear layer as `reference` computes it."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output in float32."""
        layer = self.layer
        if isinstance(layer, nn.Linear):
            weight = layer.weight[:, :, None, None]
            return reference(x[:, :, None, None], weight, layer.bias)[:, :, 0, 0].float()
        geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        return reference(x, layer.weight, layer.bias, **geometry).float()


def trained_statistics(name: str, x: Tensor) -> nn.Module:
    """Return a network whose norms have the statistics of images ``x``."""
    network = timm.create_model(name, num_classes=10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network(x)
    return network.eval()


@pytest.mark.parametrize(("name", "tolerance"), [("static_mobilenetv2_035", 0.1), ("static_resnet50", 1e-4)])
@torch.no_grad()
def test_whole_networks(name: str, tolerance: float) -> None:
    """Covers fused depthwise steps, shortcuts, activations, means and groups of samples.

    A MobileNetV2 without training magnifies a number that is rounded otherwise.
    """
    x = torch.randn(6, 3, 64, 64)
    network = trained_statistics(name, x)
    quantised = deploy(network)
    for part, module in list(quantised.named_modules()):
        small = isinstance(module, nn.Conv2d) and (module.groups > 1 or min(module.weight.shape[:2]) < 16)
        if isinstance(module, nn.Conv2d | nn.Linear) and not small and min(module.weight.shape[:2]) >= 16:
            owner, _, attribute = part.rpartition(".")
            setattr(quantised.get_submodule(owner), attribute, Quantised(module))
    program = native_int8(network)
    assert isinstance(program, NativeProgram)
    assert error(program(x), quantised(x)) < tolerance


@pytest.mark.parametrize("name", ["dcd_resnet10", "odconv_resnet10", "kernel_warehouse_resnet10"])
@torch.no_grad()
def test_dynamic_networks_are_near_float32(name: str) -> None:
    x = torch.randn(6, 3, 64, 64)
    network = randomise_heads(trained_statistics(name, x))
    program = native_int8(network)
    assert isinstance(program, NativeProgram)
    assert INT8 in precisions(program)
    assert error(program(x), network(x)) < 0.06


@torch.no_grad()
def test_threads_and_groups_change_nothing() -> None:
    network = randomise_heads(timm.create_model("dcd_mobilenetv2_050", num_classes=10).eval())
    native, x = native_int8(network), torch.randn(5, 3, 64, 64)
    want = torch.cat([native(image[None]) for image in x])
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for batch in (1, 2, 5):
                assert torch.equal(native(x[:batch]), want[:batch])
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("kernel", [1, 3])
@torch.no_grad()
def test_values_that_are_not_finite_stay(kernel: int) -> None:
    native = native_int8(nn.Conv2d(24, 40, kernel, padding=kernel // 2).eval())
    for fault in (torch.nan, torch.inf, -torch.inf):
        x = torch.randn(2, 24, 9, 11)
        x[1, 3, 4, 5] = fault
        found = native(x)
        assert not found[1, :, 4, 5].isfinite().any()
        assert found[0].isfinite().all()


@torch.no_grad()
def test_the_lanes_behind_the_last_channel_are_not_read() -> None:
    """They hold what an earlier image left there, which must not widen the range of the values."""
    network = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 24, 1), nn.Conv2d(24, 32, 1)).eval()
    native, x = native_int8(network), torch.randn(1, 3, 5, 5)
    want = native(x)
    native(1e6 * x)
    assert torch.equal(native(x), want)


@torch.no_grad()
def test_zeros_and_small_numbers() -> None:
    conv = nn.Conv2d(24, 40, 1).eval()
    conv.weight[2] = 0
    native = native_int8(conv)
    for x in (torch.zeros(1, 24, 3, 3), torch.full((1, 24, 3, 3), 1e-38), torch.full((1, 24, 3, 3), -1e-38)):
        assert_close(native(x), conv.double()(x.double()))
        conv.float()


@torch.no_grad()
def test_an_int8_program_is_smaller_and_says_so() -> None:
    conv = nn.Conv2d(256, 256, 1).eval()
    native, full = (replace(deploy(conv), precision)[0] for precision in ("int8", "float32"))
    assert native.constants.numel() < 0.3 * full.constants.numel()
    assert "precision=int8" in repr(native)
    # Weights are packed again in the same precision.
    native.original.weight.mul_(2)
    native.pack()
    x = torch.randn(1, 256, 3, 3)
    assert_close(native(x), reference(x, native.original.weight, native.original.bias))


def agreement_network() -> nn.Module:
    """Return a network whose layers together use every kernel of int8."""
    torch.manual_seed(0)
    parts = (
        nn.Conv2d(3, 24, 3, 2, 1),
        DCDConv2d(24, 40, 1),
        nn.ReLU6(),
        nn.Conv2d(40, 40, 3, 1, 1, groups=40),
        nn.Conv2d(40, 70, 1),
        nn.SiLU(),
        nn.Conv2d(70, 24, 3, 2, 1),
        DYConv2d(24, 56, 3, padding=1, num_kernels=2),
        DCDConv2d(56, 24, 1, algorithm="factored"),
    )
    return randomise_heads(nn.Sequential(*parts)).eval()


@pytest.mark.parametrize("name", SETS)
def test_each_instruction_set_computes_the_same(name: str, tmp_path: Path) -> None:
    """A program runs in a process with DYNACONV_ISA set; the integers are equal, floats differ by rounding."""
    if SETS.index(name) > SETS.index(instruction_set()):
        pytest.skip(f"this processor has no {name}")
    native, x = native_int8(agreement_network()), torch.randn(2, 3, 33, 29)
    arguments = (x, native.constants, native.steps, native._out_channels, native.sizes)
    torch.save(arguments, tmp_path / "arguments.pt")
    code = (
        "import sys, torch; from dynaconv.native import library; assert library.ready()\n"
        "found = torch.ops.dynaconv.native_program(*torch.load(sys.argv[1] + '/arguments.pt'))\n"
        "torch.save(found, sys.argv[1] + '/found.pt'); print(library.int8_instruction_set())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"DYNACONV_ISA": name}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"avx512_vnni", "avx_vnni", "portable"}
    torch.testing.assert_close(torch.load(tmp_path / "found.pt"), native(x), rtol=0, atol=2e-3)


def test_a_processor_without_vnni_keeps_float32_and_says_so_once() -> None:
    code = (
        "from torch import nn; from dynaconv import deploy\n"
        "convs = [deploy(nn.Conv2d(32, 32, 1).eval(), backend='native', precision='int8') for _ in range(2)]\n"
        "print([conv.precision for conv in convs])"
    )
    environment = os.environ | {"DYNACONV_ISA": "portable"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['float32', 'float32']", done.stderr
    assert done.stderr.count("has no VNNI") == 1


@pytest.mark.skipif(int8_instruction_set() == "portable", reason="needs a processor with VNNI")
@torch.no_grad()
def test_deploy_takes_the_precision() -> None:
    layer, x = nn.Conv2d(32, 48, 1).eval(), torch.randn(2, 32, 7, 7)
    native = deploy(layer, (32, 7, 7), backend="native", precision="int8")
    assert isinstance(native, NativeProgram)
    assert_close(native(x), reference(x, layer.weight, layer.bias))


@pytest.mark.parametrize(
    ("step", "fields"),
    [
        (1, {"precision": 3}),
        (1, {"weight_scale": -1}),
        (1, {"weight_scale": 10**7}),
        (1, {"q_scale": -1}),
        (1, {"q_scale": 10**7}),
        (1, {"pad_top": 1}),
        (1, {"groups": 8}),
        (0, {"precision": INT8}),
        (2, {"precision": INT8}),
        (4, {"weight_scale": -1}),
        (4, {"kernel_h": 2**16, "pad_top": 2**17}),
    ],
)
@torch.no_grad()
def test_damaged_programs_are_refused(step: int, fields: dict[str, int]) -> None:
    native = native_int8(agreement_network())
    assert isinstance(native, NativeProgram)
    steps = native.steps.clone()
    for name, value in fields.items():
        steps.view(-1, len(FIELDS))[step, FIELDS.index(name)] = value
    with pytest.raises(RuntimeError, match="damaged"):
        torch.ops.dynaconv.native_program(
            torch.randn(1, 3, 33, 29), native.constants, steps, native._out_channels, native.sizes
        )


@torch.no_grad()
def test_no_value_of_any_field_crashes() -> None:
    native, x = native_int8(agreement_network()), torch.randn(1, 3, 9, 8)
    refused = 0
    for index in range(native.steps.numel()):
        for value in (-2, -1, 0, 1, 2, 3, 10**7, 2**62):
            steps = native.steps.clone()
            steps[index] = value
            try:
                torch.ops.dynaconv.native_program(x, native.constants, steps, native._out_channels, native.sizes)
            except RuntimeError:
                refused += 1
    assert refused > native.steps.numel()


def test_other_backends_refuse_int8() -> None:
    with refuses(ConversionError, "int8"):
        deploy(nn.Conv2d(3, 8, 1), precision="int8")
