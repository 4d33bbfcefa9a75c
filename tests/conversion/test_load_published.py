"""Whole networks: the published ones and static ones give the same outputs after loading."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from dynaconv.conversion import LoadReport, load_published
from dynaconv.families import DCDConv2d, DynamicConv2d, ODConv2d
from dynaconv.models import DynamicMobileNetV2, DynamicResNet
from tests.conversion.published_networks import DCDMobileNetV2, ODConvMobileNetV2, PublishedResNet, images, warmed
from tests.helpers import FAMILIES, TOLERANCE

CHANNELS = (16, 24, 32, 40)


def make(name: str, **options: Any) -> nn.Module:
    """One of our registered networks in float64."""
    network: nn.Module = timm.create_model(name, num_classes=10, **options)
    return network.double()


def assert_same_outputs(ours: nn.Module, theirs: nn.Module) -> None:
    x = images(3)
    with torch.no_grad():
        want = theirs.eval()(x)
        # Two pictures that give one output would hide a mistake in what depends on the input.
        assert (want[0] - want[1]).abs().max() > 0.1
        # A network of random weights can amplify rounding a million times, as what the last bits of its input do to its
        # output shows: 1e-8 in one of these, below 1e-11 in the others.
        rounding = float((theirs(x * (1 + 2**-48)) - want).abs().max())
        limits = TOLERANCE["float64"]
        torch.testing.assert_close(ours.eval()(x), want, rtol=limits["rtol"], atol=max(limits["atol"], rounding))


def assert_complete(report: LoadReport, model: nn.Module) -> None:
    assert report.kept == report.missing == report.unexpected == ()
    assert report.num_tensors == len(model.state_dict())


@pytest.mark.parametrize(("dropout", "fc_squeeze"), [(False, 8), (True, 16)])
def test_dcd_mobilenetv2(dropout: bool, fc_squeeze: int, tmp_path: Path) -> None:
    theirs = warmed(DCDMobileNetV2(0.35, 10, fc_squeeze=fc_squeeze, dropout=dropout))
    wrapped = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"epoch": 299, "arch": "mobilenetv2_dcd", "state_dict": wrapped}, tmp_path / "net.pth.tar")
    ours = make("dcd_mobilenetv2_035_published", fc_squeeze=fc_squeeze)
    report = load_published(ours, tmp_path / "net.pth.tar")
    assert (report.kind, report.network, report.entry) == ("DCD", "mobilenetv2_035", "state_dict")
    assert_complete(report, ours)
    assert_same_outputs(ours, theirs)


@pytest.mark.parametrize("width", ["050", "100"])
def test_dcd_mobilenetv2_has_every_name_and_shape_at_other_widths(width: str) -> None:
    theirs = DCDMobileNetV2(int(width) / 100, 10, fc_squeeze=16 if width == "100" else 8)
    ours = make(f"dcd_mobilenetv2_{width}_published")
    assert_complete(load_published(ours, theirs.state_dict()), ours)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_dcd_resnet(bottleneck: bool, tmp_path: Path) -> None:
    blocks = (1, 2, 1, 1)
    theirs = warmed(PublishedResNet("dcd", CHANNELS, blocks, 10, bottleneck=bottleneck, dropout=bottleneck))
    save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    block = Bottleneck if bottleneck else BasicBlock
    ours = DynamicResNet(block, blocks, channels=CHANNELS, published=True, num_classes=10).double()
    report = load_published(ours, tmp_path / "net.safetensors")
    assert (report.kind, report.layout, report.entry) == ("DCD", "ResNet", "")
    assert_complete(report, ours)
    assert_same_outputs(ours, theirs)


def assert_complete_odconv(report: LoadReport, model: nn.Module) -> None:
    """Everything but the temperature, which the published layers do not save, came from the file."""
    assert (report.kind, report.missing, report.unexpected) == ("ODConv", (), ())
    layers = [name for name, module in model.named_modules() if isinstance(module, ODConv2d)]
    assert sorted(report.kept) == sorted(f"{name}.temperature" for name in layers)
    assert report.num_tensors == len(model.state_dict()) - len(layers)


@pytest.mark.parametrize("num_kernels", [1, 4])
def test_odconv_mobilenetv2(num_kernels: int, tmp_path: Path) -> None:
    theirs = warmed(ODConvMobileNetV2(0.35, 10, num_kernels=num_kernels))
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "net.pth.tar")
    ours = make("odconv_mobilenetv2_035", family_options={"num_kernels": num_kernels})
    report = load_published(ours, tmp_path / "net.pth.tar")
    assert (report.network, report.layout) == ("mobilenetv2_035", "torchvision MobileNetV2")
    assert_complete_odconv(report, ours)
    assert_same_outputs(ours, theirs)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_odconv_resnet(bottleneck: bool) -> None:
    theirs = warmed(PublishedResNet("odconv", CHANNELS, (1, 2, 1, 1), 10, bottleneck=bottleneck))
    block = Bottleneck if bottleneck else BasicBlock
    ours = DynamicResNet(block, (1, 2, 1, 1), family="odconv", channels=CHANNELS, num_classes=10).double()
    assert_complete_odconv(load_published(ours, theirs.state_dict()), ours)
    assert_same_outputs(ours, theirs)


@pytest.fixture(scope="module")
def static() -> Callable[[str], nn.Module]:
    """Static networks of torchvision and timm, made once each."""
    made: dict[str, nn.Module] = {}
    builders: dict[str, Callable[[], nn.Module]] = {
        "torchvision mobilenet_v2": lambda: torchvision.models.mobilenet_v2(width_mult=0.35, num_classes=10),
        "torchvision resnet18": lambda: torchvision.models.resnet18(num_classes=10),
        "timm mobilenetv2_035": lambda: timm.create_model("mobilenetv2_035", num_classes=10),
        "timm narrow resnet10": lambda: ResNet(BasicBlock, (1, 1, 1, 1), channels=CHANNELS, num_classes=10),
    }

    def get(name: str) -> nn.Module:
        if name not in made:
            torch.manual_seed(0)  # whichever test comes first
            made[name] = warmed(builders[name]())
        return made[name]

    return get


def assert_takes_static(ours: nn.Module, theirs: nn.Module, network: str) -> None:
    """Everything of the static file is loaded, all dynamic layers are neutral, and the outputs are the file's."""
    report = load_published(ours, theirs.state_dict())
    assert (report.kind, report.network) == ("static", network)
    assert report.num_tensors == len(theirs.state_dict())
    layers = [name for name, module in ours.named_modules() if isinstance(module, DynamicConv2d)]
    assert sorted(report.neutral) == sorted(layers)
    assert all(key.startswith(tuple(f"{name}." for name in layers)) for key in report.kept)
    assert_same_outputs(ours, theirs)


@pytest.mark.parametrize("source", ["torchvision mobilenet_v2", "timm mobilenetv2_035"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_static_mobilenetv2_gives_its_function(family: str, source: str, static: Callable[[str], nn.Module]) -> None:
    assert_takes_static(make(f"{family}_mobilenetv2_035"), static(source), "mobilenetv2_035")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_static_resnet_gives_its_function(family: str, static: Callable[[str], nn.Module]) -> None:
    ours = DynamicResNet(BasicBlock, (1, 1, 1, 1), family=family, channels=CHANNELS, num_classes=10).double()
    assert_takes_static(ours, static("timm narrow resnet10"), "resnet10")


@pytest.mark.parametrize("family", ["dcd", "static"])
def test_torchvisions_resnet18_gives_its_function(family: str, static: Callable[[str], nn.Module]) -> None:
    assert_takes_static(make(f"{family}_resnet18"), static("torchvision resnet18"), "resnet18")


@pytest.mark.parametrize("name", ["dcd_mobilenetv2_035_published", "dcd_resnet18_published"])
def test_a_static_checkpoint_makes_the_published_classifier_neutral_too(
    name: str, static: Callable[[str], nn.Module]
) -> None:
    theirs = static("torchvision resnet18" if "resnet" in name else "torchvision mobilenet_v2")
    ours = make(name)
    report = load_published(ours, theirs.state_dict())
    assert ("fc" if "resnet" in name else "classifier") in report.neutral
    assert_same_outputs(ours, theirs)


def test_neutral_layers_learn(static: Callable[[str], nn.Module]) -> None:
    ours = make("dcd_mobilenetv2_035")
    load_published(ours, static("torchvision mobilenet_v2").state_dict())
    ours.train()(images(4)).square().sum().backward()
    moving = [name for name, p in ours.named_parameters() if ".heads." in name and p.grad is not None and p.grad.any()]
    assert len(moving) == 68


def test_what_the_network_itself_saved_comes_back(tmp_path: Path) -> None:
    first, second = make("dcd_mobilenetv2_035"), make("dcd_mobilenetv2_035")
    torch.save({"state_dict_ema": first.state_dict()}, tmp_path / "own.pt")
    report = load_published(second, tmp_path / "own.pt")
    assert (report.kind, report.entry, report.neutral) == ("dynaconv", "state_dict_ema", ())
    assert_complete(report, second)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])


def test_a_network_with_the_names_of_the_file_takes_it(static: Callable[[str], nn.Module]) -> None:
    theirs = static("torchvision mobilenet_v2")
    other = torchvision.models.mobilenet_v2(width_mult=0.35, num_classes=10).double()
    assert_complete(load_published(other, theirs.state_dict()), other)
    assert_same_outputs(other, theirs)


def test_a_dynamic_layer_anywhere_takes_the_convolution_under_its_name(static: Callable[[str], nn.Module]) -> None:
    theirs = static("torchvision mobilenet_v2")
    other = torchvision.models.mobilenet_v2(width_mult=0.35, num_classes=10).double()
    conv = other.get_submodule("features.9.conv.2")
    assert isinstance(conv, nn.Conv2d)
    other.get_submodule("features.9.conv").register_module("2", DCDConv2d.like(conv))
    assert load_published(other, theirs.state_dict()).neutral == ("features.9.conv.2",)
    assert_same_outputs(other, theirs)


def test_the_package_needs_torch_alone() -> None:
    code = "import sys, dynaconv.conversion; print([m for m in ('timm', 'safetensors') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_mode_device_type_and_what_is_trainable_stay(static: Callable[[str], nn.Module]) -> None:
    ours = make("dcd_mobilenetv2_035").half().eval()
    ours.get_parameter("conv_stem.weight").requires_grad_(False)
    load_published(ours, static("torchvision mobilenet_v2").state_dict())
    assert not ours.training
    assert not ours.get_parameter("conv_stem.weight").requires_grad
    assert {p.dtype for p in ours.parameters()} == {torch.float16}


def test_wrappers_around_the_model_are_looked_through(static: Callable[[str], nn.Module]) -> None:
    theirs = static("torchvision resnet18")
    ours = make("static_resnet18")
    assert load_published(nn.DataParallel(torch.compile(ours)), theirs.state_dict()).num_tensors == 122  # type: ignore[arg-type]
    assert_same_outputs(ours, theirs)


def test_counters_of_batches_may_be_missing(static: Callable[[str], nn.Module]) -> None:
    theirs = static("torchvision mobilenet_v2")
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    ours = make("static_mobilenetv2_035")
    report = load_published(ours, state)
    assert report.num_tensors == len(state)
    assert all(key.endswith("num_batches_tracked") for key in report.kept)
    assert_same_outputs(ours, theirs)


def test_not_strict_leaves_out_what_has_no_place(static: Callable[[str], nn.Module]) -> None:
    state = dict(static("torchvision mobilenet_v2").state_dict())
    del state["features.5.conv.1.0.weight"], state["features.5.conv.2.weight"]
    ours = DynamicMobileNetV2(0.35, num_classes=0).double()
    kept = {key: value.clone() for key, value in ours.state_dict().items()}
    report = load_published(ours, state, strict=False)
    assert report.missing == ("features.5.conv.1.0.weight", "features.5.conv.2.weight")
    assert report.unexpected == ("classifier.1.weight", "classifier.1.bias")
    # A layer whose static kernel did not come is left alone, its dynamic part too.
    assert "blocks.2.1.conv_pwl" not in report.neutral
    for key in ours.state_dict():
        if key.startswith("blocks.2.1.conv_pwl."):
            assert torch.equal(kept[key], ours.state_dict()[key])


def test_the_report_reads_well(static: Callable[[str], nn.Module]) -> None:
    report = load_published(make("dcd_resnet18"), {"state_dict": static("torchvision resnet18").state_dict()})
    assert str(report) == (
        "static resnet18: 122 tensors loaded, from the entry 'state_dict', 16 dynamic layers neutral"
    )
