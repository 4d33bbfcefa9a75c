"""ResNet: parameter counts, compatibility with timm's, which convolutions are dynamic, the stem."""

import math

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from dynaconv.families import DCDConv2d, DCDLinear, DynamicConv2d
from dynaconv.models import DynamicResNet
from tests.helpers import FAMILIES, count
from tests.messages import refuses, spelled


def static_names(model: nn.Module) -> list[str]:
    kinds = (nn.Conv2d, nn.Linear)
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and ".branch" not in name]


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_the_static_twin_is_timms_network(depth: int) -> None:
    twin = timm.create_model(f"static_resnet{depth}", device="meta")
    theirs = timm.create_model(f"resnet{depth}", device="meta")
    assert count(twin) == count(theirs)
    assert list(twin.state_dict()) == list(theirs.state_dict())


def test_timms_weights_load_and_give_timms_outputs() -> None:
    theirs = timm.create_model("resnet18", num_classes=5).eval()
    twin = timm.create_model("static_resnet18", num_classes=5).eval()
    twin.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert twin(x).equal(theirs(x))


def test_resnet10_has_one_block_a_stage() -> None:
    model = timm.create_model("static_resnet10", device="meta")
    assert [len(model.get_submodule(f"layer{stage}")) for stage in (1, 2, 3, 4)] == [1, 1, 1, 1]


@pytest.mark.parametrize(("depth", "parameters"), [(18, 14_703_332), (50, 29_835_056)])
def test_published_counts(depth: int, parameters: int) -> None:
    assert count(timm.create_model(f"dcd_resnet{depth}_published", device="meta")) == parameters


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


@pytest.mark.parametrize("depth", [18, 50])
def test_the_count_is_the_papers_formula_summed_over_the_layers(depth: int) -> None:
    """W0 + L (C_in + C_out) + the branch: C_in h + h (C_out + L^2), with biases where the branch has them."""
    model = timm.create_model(f"dcd_resnet{depth}", device="meta")
    added = 0
    for layer in model.modules():
        if isinstance(layer, DCDConv2d):
            smaller = min(layer.in_channels, layer.out_channels)
            latent = smaller // 2 ** math.floor(math.log2(math.sqrt(smaller)))
            hidden = layer.sizes.hidden_channels
            assert (layer.sizes.latent_dim, hidden) == (latent, max(hidden, layer.in_channels // 16))
            outputs = layer.out_channels + latent**2
            added += latent * (layer.in_channels + layer.out_channels) + hidden * (layer.in_channels + outputs)
            added += sum(p.numel() for name, p in layer.named_parameters() if name.endswith("bias"))
    assert count(model) == count(timm.create_model(f"static_resnet{depth}", device="meta")) + added


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
