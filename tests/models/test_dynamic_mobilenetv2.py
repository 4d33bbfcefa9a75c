"""MobileNetV2: parameter counts, compatibility with timm's, which convolutions are dynamic."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from dynaconv.families import DCDConv2d, DCDLinear, DynamicConv2d
from dynaconv.models import DynamicMobileNetV2, DynamicMobileNetV2Features
from tests.helpers import FAMILIES, count
from tests.messages import refuses, spelled

WIDTHS = ["035", "050", "075", "100", "140"]


def dynamic_names(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, DynamicConv2d)}


def static_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("family", ["odconv", "dyconv", "condconv", "se", "dcd"])
def test_a_fresh_network_passes_gradients_on_as_the_static_one_does(family: str) -> None:
    """Where branches amplify, the first layers' gradients grow with the number of layers behind them."""
    images = torch.randn(16, 1, 28, 28).cumsum(2).cumsum(3) / 10 + torch.randn(16, 1, 1, 1)
    norms = []
    for name in ("static_mobilenetv2_035", f"{family}_mobilenetv2_035"):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10, in_chans=1, stem_stride=2).train()
        nn.init.normal_(model.get_classifier().weight, std=0.01)
        F.cross_entropy(model(images), torch.arange(16) % 10).backward()
        norms.append(float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))
    assert norms[1] < 3 * norms[0]


def test_fc_squeeze_defaults_by_width() -> None:
    for width, squeeze in (("140", 16), ("100", 16), ("075", 8), ("050", 8)):
        name = f"dcd_mobilenetv2_{width}_published"
        given = timm.create_model(name, fc_squeeze=squeeze, device="meta")
        other = timm.create_model(name, fc_squeeze=24 - squeeze, device="meta")
        assert count(timm.create_model(name, device="meta")) == count(given) != count(other)


def test_the_published_network_leaves_stem_depthwise_first_block_and_head_static() -> None:
    model = timm.create_model("dcd_mobilenetv2_035_published", device="meta")
    expected = {
        f"{name}.{conv}"
        for name, module in model.named_modules()
        if type(module).__name__ == "InvertedResidual"
        for conv in ("conv_pw", "conv_pwl")
    }
    assert len(expected) == 32
    assert dynamic_names(model) == expected


def test_every_pointwise_convolution_of_dcd_is_dynamic() -> None:
    model = timm.create_model("dcd_mobilenetv2_035", device="meta")
    assert [name for name in static_names(model) if not name.endswith("conv_dw")] == ["conv_stem"]
    assert len(dynamic_names(model)) == 34


@pytest.mark.parametrize(
    ("family", "static"), [("condconv", []), ("odconv", []), ("dyconv", ["conv_head"])], ids=lambda value: str(value)
)
def test_every_convolution_behind_the_stem_is_dynamic_but(family: str, static: list[str]) -> None:
    model = timm.create_model(f"{family}_mobilenetv2_035", device="meta")
    assert static_names(model) == ["conv_stem", *static]
    assert len(dynamic_names(model)) == 51 - len(static)


def test_squeeze_and_excitation_follows_the_last_convolution_of_each_block() -> None:
    model = timm.create_model("se_mobilenetv2_035", device="meta")
    ends = {f"blocks.{stage}.{i}.conv_pwl" for stage, n in enumerate((0, 2, 3, 4, 3, 3, 1)) for i in range(n)}
    assert dynamic_names(model) == {"blocks.0.0.conv_pw", *ends}


@pytest.mark.parametrize("family", ["condconv", "dyconv", "odconv"])
def test_depthwise_convolutions_stay_static_on_request(family: str) -> None:
    model = timm.create_model(f"{family}_mobilenetv2_035", dynamic_depthwise=False, device="meta")
    assert sum(name.endswith("conv_dw") for name in static_names(model)) == 17


def test_depthwise_convolutions_are_dynamic_on_request() -> None:
    model = timm.create_model("dcd_mobilenetv2_035", dynamic_depthwise=True, stem_stride=2, num_classes=3)
    assert static_names(model) == ["conv_stem"]
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("dynamic", "depthwise", "pointwise", "classifier"),
    [
        ("pointwise", 0, 34, False),
        ("depthwise", 17, 0, False),
        ("classifier", 0, 0, True),
        (["pointwise", "classifier"], 0, 34, True),
        (["pointwise", "depthwise", "classifier"], 17, 34, True),
    ],
)
def test_the_kinds_of_layers_that_are_named_are_dynamic(
    dynamic: str | list[str], depthwise: int, pointwise: int, classifier: bool
) -> None:
    model = timm.create_model("dcd_mobilenetv2_035", dynamic=dynamic, device="meta")
    names = dynamic_names(model)
    # 17 blocks, of which the first has one 1x1 convolution, and the head.
    assert sum(name.endswith("conv_dw") for name in names) == depthwise
    assert sum(not name.endswith("conv_dw") for name in names) == pointwise
    assert isinstance(model.get_classifier(), DCDLinear) == classifier


def test_a_dynamic_classifier_takes_the_options_it_has_and_survives_a_reset() -> None:
    options = {"reduction": 32, "context_size": 2}
    model = timm.create_model(
        "dcd_mobilenetv2_035", dynamic=["classifier", "pointwise"], family_options=options, num_classes=3, in_chans=1
    )
    assert model.classifier.sizes.hidden_channels == 1280 // 32
    model.reset_classifier(4)
    assert isinstance(model.classifier, DCDLinear)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    model.reset_classifier(0)
    assert isinstance(model.classifier, nn.Identity)


def test_the_latent_ratio_multiplies_every_layers_own_default() -> None:
    def latents(**options: Any) -> list[int]:
        model = timm.create_model("dcd_mobilenetv2_035", device="meta", **options)
        return [layer.sizes.latent_dim for layer in model.modules() if isinstance(layer, DCDConv2d)]

    default = latents()
    assert latents(latent_ratio=1) == default
    assert latents(latent_ratio=2) == [2 * latent for latent in default]
    assert latents(latent_ratio=0.01) == [1] * len(default)
    with_depthwise = timm.create_model("dcd_mobilenetv2_035", device="meta", dynamic_depthwise=True, latent_ratio=2)
    assert with_depthwise.get_submodule("blocks.1.0.conv_dw").sizes.latent_taps == 4
    halved = latents(latent_ratio=1, family_options={"blocks": 2})
    assert halved == latents(family_options={"blocks": 2})


def test_a_width_between_the_named_ones_is_a_networks_width() -> None:
    model = timm.create_model("static_mobilenetv2_035", width=0.43, device="meta")
    assert count(model) == count(DynamicMobileNetV2(0.43, family="static", device="meta"))


def test_the_stem_stride_changes_no_weight() -> None:
    shapes = [
        {key: value.shape for key, value in DynamicMobileNetV2(0.35, stem_stride=s, device="meta").state_dict().items()}
        for s in (1, 2, 4)
    ]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_features_before_the_projection_are_available(family: str) -> None:
    model = DynamicMobileNetV2Features(0.35, family=family, feature_location="expansion").eval()
    with torch.no_grad():
        features = model(torch.randn(1, 3, 64, 64))
    assert [feature.shape[1] for feature in features] == model.feature_info.channels()


def test_the_classes_build_without_timms_registry() -> None:
    model = DynamicMobileNetV2(0.35, family="static", num_classes=4, in_chans=1, stem_stride=1).eval()
    assert model(torch.randn(1, 1, 28, 28)).shape == (1, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"family": "dcdd"},
        {"fc_squeeze": 8},
        {"published": True, "dynamic_depthwise": True},
        {"published": True, "family": "static"},
        {"family": "static", "dynamic_depthwise": True},
        {"dynamic": "pointwize"},
        {"dynamic": []},
        {"dynamic": "pointwise", "family": "static"},
        {"dynamic": "classifier", "family": "odconv"},
        {"dynamic": "pointwise", "dynamic_depthwise": True},
        {"dynamic": "pointwise", "published": True},
        {"latent_ratio": 2, "family": "se"},
        {"latent_ratio": 2, "family_options": {"latent_dim": 4}},
        {"latent_ratio": 0},
        {"stem_stride": 2, "aa_layer": "blurpc"},
        {"dynamic_depthwise": True, "pad_type": "same"},
    ],
    ids=spelled,
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object]) -> None:
    with refuses(ValueError):
        DynamicMobileNetV2(0.35, device="meta", **options)  # type: ignore[arg-type]
