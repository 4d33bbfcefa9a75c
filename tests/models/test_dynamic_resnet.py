"""ResNet: parameter counts, compatibility with timm's, which convolutions are dynamic, the stem."""

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from dynaconv.families import DCDLinear, DynamicConv2d
from dynaconv.models import DynamicResNet
from tests.helpers import FAMILIES, count
from tests.messages import refuses, spelled


def static_names(model: nn.Module) -> list[str]:
    kinds = (nn.Conv2d, nn.Linear)
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and ".branch" not in name]


def test_resnet10_has_one_block_a_stage() -> None:
    model = timm.create_model("static_resnet10", device="meta")
    assert [len(model.get_submodule(f"layer{stage}")) for stage in (1, 2, 3, 4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("depth", [18, 50])
def test_the_published_network_leaves_stem_and_downsampling_static(depth: int) -> None:
    model = timm.create_model(f"dcd_resnet{depth}_published", device="meta")
    assert all(name == "conv1" or "downsample" in name for name in static_names(model))
    assert isinstance(model.fc, DCDLinear)


@pytest.mark.parametrize("family", ["dcd", "condconv", "dyconv", "odconv"])
@pytest.mark.parametrize("downsample", [False, True])
def test_downsampling_is_dynamic_on_request(family: str, downsample: bool) -> None:
    model = timm.create_model(f"{family}_resnet18", dynamic_downsample=downsample, device="meta")
    expected = ["conv1"] + ([] if downsample else [f"layer{s}.0.downsample.0" for s in (2, 3, 4)]) + ["fc"]
    assert static_names(model) == expected


@pytest.mark.parametrize(("depth", "last"), [(18, "conv2"), (50, "conv3")])
def test_squeeze_and_excitation_follows_the_last_convolution_of_each_block(depth: int, last: str) -> None:
    model = timm.create_model(f"se_resnet{depth}", device="meta")
    blocks = [name for name, module in model.named_modules() if isinstance(module, (BasicBlock, Bottleneck))]
    dynamic = [name for name, module in model.named_modules() if isinstance(module, DynamicConv2d)]
    assert dynamic == [f"{name}.{last}" for name in blocks]


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_squeeze_and_excitation_has_the_parameters_of_timms_network(depth: int) -> None:
    ours = timm.create_model(f"se_resnet{depth}", device="meta")
    assert count(ours) == count(timm.create_model(f"seresnet{depth}", device="meta"))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_parameter_of_bottlenecks_gets_a_gradient(family: str) -> None:
    model = DynamicResNet(Bottleneck, (1, 1, 1, 1), family=family, num_classes=3, stem_stride=2)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_small_images_get_a_3x3_stem_without_pooling(stem_stride: int) -> None:
    model = timm.create_model("dcd_resnet18", stem_stride=stem_stride, device="meta")
    assert (model.conv1.kernel_size, model.conv1.stride) == ((3, 3), (stem_stride, stem_stride))
    assert isinstance(model.maxpool, nn.Identity)


def test_the_class_builds_without_timms_registry() -> None:
    model = DynamicResNet(BasicBlock, [1, 1, 1, 1], family="static", num_classes=4, in_chans=1, stem_stride=1).eval()
    assert model(torch.randn(1, 1, 28, 28)).shape == (1, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"family": "dcdd"},
        {"published": True, "dynamic_downsample": True},
        {"published": True, "family": "static"},
        {"family": "static", "dynamic_downsample": True},
        {"stem_stride": 2, "stem_type": "deep"},
        {"stem_stride": 1, "replace_stem_pool": True},
    ],
    ids=spelled,
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object]) -> None:
    with refuses(ValueError):
        DynamicResNet(BasicBlock, (1, 1, 1, 1), device="meta", **options)  # type: ignore[arg-type]
