"""What is particular to FDConv: a kernel stored as a spectrum, its groups, neutral start, sizes, deployed forms."""

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from dynaconv import convert, export_onnx, load_published, plan_conversion, revert
from dynaconv.errors import ConversionError
from dynaconv.families import FDConv2d
from dynaconv.families.fdconv.products import inverse_products
from dynaconv.families.fdconv.spectrum import frequency_groups, num_groups, spectrum_kernel
from tests.families.cases import enlarge
from tests.helpers import TOLERANCE, assert_file_computes, count
from tests.messages import refuses


@pytest.mark.parametrize(
    ("sizes", "num_kernels", "parameters"),
    [
        ((64, 64, 3), 4, 45_442),
        ((64, 64, 3), 64, 46_462),
        ((128, 128, 3), 4, 164_354),
        ((128, 128, 3), 64, 165_374),
        ((64, 256, 1), 4, 24_870),
        ((64, 256, 1), 64, 25_890),
    ],
)
def test_parameters_of_published_layers(sizes: tuple[int, int, int], num_kernels: int, parameters: int) -> None:
    assert count(FDConv2d(*sizes, bias=False, num_kernels=num_kernels, device="meta")) == parameters


def test_parameters_of_the_published_resnet50() -> None:
    static, dynamic = (timm.create_model(f"{family}_resnet50", device="meta") for family in ("static", "fdconv"))
    assert count(dynamic) - count(static) == 3_647_120
    layers = [name for name, module in dynamic.named_modules() if isinstance(module, FDConv2d)]
    assert len(layers) == 48
    assert not any("downsample" in name for name in layers)


def test_multiply_adds_as_papers_count_them() -> None:
    layer = FDConv2d(64, 64, 3, padding=1, bias=False, device="meta")
    parts = {
        "static": 115.6,
        "heads": 0.005,
        "local": 0.18,
        "transform": 0.70,
        "products": 0.15,
        "maps": 5.4,
        "band transforms": 11.7,
        "weighting": 0.6,
    }
    assert layer.published_macs((2, 64, 56, 56)) / 2e6 == pytest.approx(sum(parts.values()), rel=2e-3)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("sizes", [(64, 64, 3), (128, 128, 3), (64, 256, 1), (256, 64, 1)])
def test_neutral_start_behind_a_relu(sizes: tuple[int, int, int], training: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(*sizes, padding=sizes[2] // 2)
    layer = FDConv2d.from_conv(conv).train(training)
    noise = torch.randn(8, sizes[0], 14, 14)
    for x in (noise, noise.relu(), (noise + torch.randn(8, sizes[0], 1, 1)).relu()):
        want = conv(x)
        assert (layer(x) - want).abs().max() <= 1e-6 * want.abs().max()
    assert layer.is_neutral
    torch.testing.assert_close(layer.static_conv().weight, conv.weight, rtol=0, atol=1e-6)


def test_a_neutral_layer_trains() -> None:
    torch.manual_seed(0)
    layer = FDConv2d.from_conv(nn.Conv2d(20, 24, 3, padding=1)).train()
    x, target = torch.randn(8, 20, 9, 9).relu(), torch.randn(8, 24, 9, 9)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.5)
    losses = []
    for _ in range(20):
        loss = (layer(x) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not layer.is_neutral
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(
    ("sizes", "wanted", "taken"), [((24, 20, 3), 64, 60), ((64, 64, 3), 64, 64), ((7, 5, 3), 64, 55), ((3, 5, 1), 4, 2)]
)
def test_the_largest_divisor_is_taken(sizes: tuple[int, int, int], wanted: int, taken: int) -> None:
    layer = FDConv2d(*sizes, num_kernels=wanted)
    rows, entries = sizes[1] * sizes[2], sizes[1] * sizes[2] * (sizes[0] * sizes[2] // 2 + 1)
    assert taken == max(k for k in range(1, wanted + 1) if entries % k == 0)
    assert layer.num_kernels == taken == num_groups(rows, sizes[0] * sizes[2], wanted)
    assert f"num_kernels={taken}" in repr(layer)
    assert layer.config.num_kernels == wanted


def test_groups_do_not_depend_on_defaults_and_are_saved() -> None:
    plain = FDConv2d(64, 64, 1).frequency_group
    torch.set_default_dtype(torch.float64)
    try:
        frequency_groups.cache_clear()
        assert torch.equal(FDConv2d(64, 64, 1).frequency_group, plain)
    finally:
        torch.set_default_dtype(torch.float32)
    # A stable sort, which a later torch may have, gives other groups; saved layers keep theirs.
    layer, x = FDConv2d(20, 24, 1, num_kernels=4).eval(), torch.randn(2, 20, 3, 3)
    enlarge(layer)
    state = layer.state_dict()
    moved = {**state, "frequency_group": state["frequency_group"].flip(1)}
    other = FDConv2d(20, 24, 1, num_kernels=4).eval()
    other.load_state_dict(moved)
    assert not torch.allclose(other(x), layer(x))
    other.load_state_dict(state)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(other.frequency_order, layer.frequency_order)


@pytest.mark.parametrize("size", [(9, 7), (192, 30), (127, 64), (60, 128)])
def test_inverse_transforms_as_products(size: tuple[int, int]) -> None:
    rows, columns = size
    spectrum = torch.randn(2, rows, columns // 2 + 1, 2, dtype=torch.float64)
    want = torch.fft.irfft2(torch.view_as_complex(spectrum), s=size)
    got = inverse_products(spectrum[..., 0], spectrum[..., 1], rows, columns)
    torch.testing.assert_close(got, want, **TOLERANCE["float64"])
    image = spectrum_kernel(spectrum, (rows, columns, 1, 1))[..., 0, 0]
    torch.testing.assert_close(image, want, **TOLERANCE["float64"])


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"groups": 2}, ["groups"]),
        ({"kernel_size": 5}, ["kernel_size"]),
        ({"kernel_size": (3, 1)}, ["kernel_size"]),
        ({"num_kernels": 0}, ["num_kernels"]),
        ({"bands": (4, 2)}, ["bands"]),
        ({"bands": 2}, ["bands"]),
        ({"band_groups": 3}, ["band_groups", "in_channels"]),
        ({"band_kernel_size": 2}, ["band_kernel_size"]),
        ({"stored": "kernel", "spectra": 2}, ["spectra"]),
        ({"gate": "softmax"}, ["gate"]),
        ({"temperature": 0}, ["temperature"]),
        ({"gate_limit": math.inf}, ["gate_limit"]),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], names: list[str]) -> None:
    with refuses(ValueError, *names):
        FDConv2d(**{"in_channels": 20, "out_channels": 20, "kernel_size": 3, **arguments})


class Net(nn.Module):
    """A network with convolutions that FDConv replaces and others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.wide = nn.Conv2d(24, 20, 3, padding=1)
        self.bn = nn.BatchNorm2d(20)
        self.depthwise = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.grouped = nn.Conv2d(20, 40, 1, groups=2)
        self.large = nn.Conv2d(40, 40, 5, padding=2)
        self.narrow = nn.Conv2d(40, 16, 1)
        self.last = nn.Conv2d(16, 32, 1)
        self.point = nn.Conv2d(32, 32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.wide(self.stem(x).relu())).relu()
        x = self.large(self.grouped(self.depthwise(x)).relu()).relu()
        return self.point(self.last(self.narrow(x).relu()).relu())


def test_conversion_lists_what_stays_static_and_the_number_of_kernels() -> None:
    plan = plan_conversion(Net(), "fdconv")
    reasons = {layer.name: layer.reason for layer in plan.layers}
    assert reasons == {
        "stem": "fewer than 17 channels",
        "wide": None,
        "depthwise": "depthwise, not among the kinds",
        "grouped": "grouped, not among the kinds",
        "large": "its kernel is not among kernel_sizes=(1, 3)",
        "narrow": "fewer than 17 channels",
        "last": "fewer than 17 channels",
        "point": None,
    }
    assert "num_kernels=60, deployed with one inverse transform a sample" in str(plan)
    assert "deployed as 4 kernels" in str(plan_conversion(Net(), "fdconv", num_kernels=4))
    # The limits are defaults: they give way to the caller, except where the layer does not exist.
    again = plan_conversion(Net(), "fdconv", min_channels=1)
    assert {layer.name for layer in again.converted} == {"wide", "narrow", "last", "point"}
    assert {layer.name for layer in plan_conversion(Net(), "fdconv", include="narrow").converted} == {"narrow"}
    for name in ("depthwise", "large"):
        with refuses(ConversionError, name):
            plan_conversion(Net(), "fdconv", include=name)


def test_a_converted_network_keeps_its_function_and_can_be_reverted() -> None:
    torch.manual_seed(0)
    network, x = Net().eval(), torch.randn(3, 3, 9, 11)
    dynamic = convert(network, "fdconv")
    torch.testing.assert_close(dynamic(x), network(x), **TOLERANCE["float32 twin"])
    static = revert(dynamic)
    assert not any(isinstance(module, FDConv2d) for module in static.modules())
    torch.testing.assert_close(static(x), network(x), **TOLERANCE["float32 twin"])
    assert static.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("num_kernels", [6, 9])
def test_deployed_layers_store_few_kernels_or_the_spectrum(num_kernels: int) -> None:
    torch.manual_seed(0)
    layer = FDConv2d(20, 18, 3, padding=1, num_kernels=num_kernels).eval()
    enlarge(layer)
    form = layer.deployed()
    stored = {name: parameter.numel() for name, parameter in form.named_parameters() if name in ("kernels", "spectrum")}
    weights = 20 * 18 * 9
    assert stored == ({"kernels": 6 * weights} if num_kernels == 6 else {"spectrum": 2 * 18 * 3 * 31})
    assert ("6 kernels mixed" if num_kernels == 6 else "one inverse transform a sample") in repr(form)
    x = torch.randn(3, 20, 6, 7)
    torch.testing.assert_close(form(x), layer(x), **TOLERANCE["float32"])


def test_static_checkpoints_load() -> None:
    torch.manual_seed(0)
    static = timm.create_model("static_resnet10", num_classes=5, stem_stride=1).eval()
    dynamic = timm.create_model("fdconv_resnet10", num_classes=5, stem_stride=1).eval()
    report = load_published(dynamic, static.state_dict())
    assert report.kind == "static"
    assert not any(key.endswith(".spectrum") for key in report.kept)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(dynamic(x), static(x), **TOLERANCE["float32 twin"])


def test_mobilenetv2_has_dynamic_pointwise_convolutions_of_more_than_sixteen_channels() -> None:
    network = timm.create_model("fdconv_mobilenetv2_035", device="meta")
    for name, module in network.named_modules():
        if isinstance(module, FDConv2d | nn.Conv2d) and ".maps" not in name:
            wide = module.kernel_size == (1, 1) and min(module.in_channels, module.out_channels) > 16
            assert isinstance(module, FDConv2d) == wide, name


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_efficientnet_lite0_predicts_the_same_after_conversion(training: bool) -> None:
    torch.manual_seed(0)
    static = timm.create_model("tf_efficientnet_lite0").eval()
    for module in static.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    dynamic, x = convert(static, "fdconv").eval(), torch.randn(2, 3, 64, 64)
    assert sum(isinstance(module, FDConv2d) for module in dynamic.modules()) == 30
    if training:
        # Batch norms of the network keep their statistics; those in the branches use the batch's.
        for layer in dynamic.modules():
            if isinstance(layer, FDConv2d):
                layer.train()
    want = static(x)
    assert (dynamic(x) - want).abs().max() <= 1e-5 * want.abs().max()
    assert torch.equal(dynamic(x).argmax(1), want.argmax(1))


@pytest.mark.export
@pytest.mark.parametrize(("kernel_size", "num_kernels"), [(3, 4), (1, 64)])
def test_onnx_with_a_free_batch(kernel_size: int, num_kernels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = FDConv2d(18, 20, kernel_size, padding=kernel_size // 2, num_kernels=num_kernels).eval()
    enlarge(layer)
    export_onnx(layer, tmp_path / "layer.onnx", torch.randn(3, 18, 8, 7), free_size=False)
    assert_file_computes(tmp_path / "layer.onnx", layer, (18, 8, 7))
