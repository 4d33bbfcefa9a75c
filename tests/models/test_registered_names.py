"""What timm expects of a model holds for every registered name."""

import math
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from dynaconv import set_temperature
from dynaconv.families import DCDConv2d, DCDLinear, DynamicConv2d
from dynaconv.train.factory import static_options, static_twin
from tests.helpers import FAMILIES, TOLERANCE, count
from tests.messages import refuses, spelled

SIZES = ["mobilenetv2_035", "mobilenetv2_050", "mobilenetv2_075", "mobilenetv2_100", "mobilenetv2_140"]
SIZES += ["resnet10", "resnet18", "resnet34", "resnet50", "resnet101"]
NAMES = [f"{family}_{size}" for family in FAMILIES for size in SIZES] + [f"dcd_{size}_published" for size in SIZES]
DYNAMIC = [family for family in FAMILIES if family != "static"]
TEMPERED = ["dyconv", "odconv"]
DRAWN_ANEW = ["kernel_warehouse"]
VARIED = [f"{family}_{size}" for family in DYNAMIC for size in ("mobilenetv2_035", "resnet10")]
VARIED += ["dcd_mobilenetv2_035_published", "dcd_resnet10_published"]
# Two kernels, so that tests that run a network take little memory; the default numbers are counted elsewhere.
FEW_KERNELS = {"condconv": {"num_experts": 2}, "dyconv": {"num_kernels": 2}, "odconv": {"num_kernels": 2}}


def create(name: str, seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    options.setdefault("family_options", FEW_KERNELS.get(name.split("_")[0]))
    return timm.create_model(name, **options)


def dynamic_layers(model: nn.Module) -> dict[str, DynamicConv2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, DynamicConv2d)}


def images(batch: int = 2, channels: int = 3, size: int = 32) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_exactly_these_names_are_listed() -> None:
    prefixes = tuple(f"{family}_" for family in FAMILIES)
    listed = [name for name in timm.list_models() if name.startswith(prefixes)]
    assert sorted(listed) == sorted(NAMES)
    assert not timm.list_models("dcd_*", pretrained=True)
    assert set(timm.list_models(module="dynamic_resnet")) == {name for name in NAMES if "_resnet" in name}


@pytest.mark.parametrize("name", NAMES)
def test_every_dynamic_network_has_a_static_twin(name: str) -> None:
    size = max((size for size in SIZES if size in name), key=len)
    assert static_twin(name) == (None if name.startswith("static_") else f"static_{size}")


def test_the_static_twin_takes_the_options_that_are_not_of_dynamic_layers() -> None:
    options: dict[str, object] = {"stem_stride": 2, "dynamic": ("pointwise", "classifier"), "latent_ratio": 0.5}
    create("dcd_mobilenetv2_035", **options)
    create("static_mobilenetv2_035", **static_options(options))


# timm has no ResNet-10 of these blocks.
@pytest.mark.parametrize("size", [size for size in SIZES if size != "resnet10"])
def test_the_static_twin_is_timms_network(size: str) -> None:
    twin, theirs = (timm.create_model(name, device="meta") for name in (f"static_{size}", size))
    assert count(twin) == count(theirs)
    assert list(twin.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("size", ["mobilenetv2_100", "resnet18"])
def test_timms_weights_load_and_give_timms_outputs(size: str) -> None:
    theirs = timm.create_model(size, num_classes=5).eval()
    twin = timm.create_model(f"static_{size}", num_classes=5).eval()
    twin.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert twin(x).equal(theirs(x))


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("mobilenetv2_100", 5_720_028),
        ("mobilenetv2_050", 3_056_616),
        ("resnet18", 14_703_332),
        ("resnet50", 29_835_056),
    ],
)
def test_published_counts(size: str, parameters: int) -> None:
    assert count(timm.create_model(f"dcd_{size}_published", device="meta")) == parameters


@pytest.mark.parametrize("size", ["mobilenetv2_100", "resnet18", "resnet50"])
def test_the_count_is_the_papers_formula_summed_over_the_layers(size: str) -> None:
    """W0 + L (C_in + C_out) + the branch: C_in h + h (C_out + L^2), with biases where the branch has them."""
    model = timm.create_model(f"dcd_{size}", device="meta")
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
    assert count(model) == count(timm.create_model(f"static_{size}", device="meta")) + added


@pytest.mark.parametrize("name", NAMES)
def test_the_default_configuration_is_complete(name: str) -> None:
    config = get_pretrained_cfg(name)
    assert config.architecture == name
    assert config.url == ""
    assert config.num_classes == 1000
    assert (config.input_size, config.pool_size) == ((3, 224, 224), (7, 7))
    assert (config.mean, config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert config.interpolation in ("bilinear", "bicubic")
    assert config.crop_pct == 0.875
    model = create(name, device="meta")
    assert isinstance(model.get_submodule(config.first_conv), nn.Conv2d | DynamicConv2d)
    assert model.get_submodule(config.classifier) is model.get_classifier()
    assert model.default_cfg["architecture"] == name


@pytest.mark.parametrize("name", NAMES)
def test_the_entry_point_is_a_documented_function_of_its_module(name: str) -> None:
    entry = timm.model_entrypoint(name)
    assert entry.__name__ == name
    assert entry.__doc__ is not None
    assert re.search(r"\w+ with .*\.$", entry.__doc__)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_can_be_found_without_memory(name: str) -> None:
    model = timm.create_model(name, num_classes=7, device="meta").eval()
    with torch.no_grad():
        assert model(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", ["static_mobilenetv2_035", "static_resnet10", *VARIED])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    """Bottlenecks have a test of their own in test_dynamic_resnet.py; larger networks repeat these blocks."""
    model = create(name, num_classes=7, stem_stride=2)
    output = model(images())
    assert output.shape == (2, 7)
    output.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("name", ["static_mobilenetv2_035", "static_resnet10", *VARIED])
def test_feature_shapes_are_those_of_feature_info(name: str, stem_stride: int) -> None:
    model = create(name, features_only=True, stem_stride=stem_stride).eval()
    with torch.no_grad():
        features = model(images(1, size=64))
    assert len(features) == 5
    first = min(2, stem_stride)
    assert model.feature_info.reduction() == [first, *(stem_stride * 2**level for level in range(4))]
    for feature, channels, reduction in zip(
        features, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert feature.shape == (1, channels, 64 // reduction, 64 // reduction)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("name", ["static_mobilenetv2_035", "static_resnet10"])
def test_output_stride_bounds_the_reductions(name: str, stem_stride: int, output_stride: int) -> None:
    model = create(name, features_only=True, stem_stride=stem_stride, output_stride=output_stride).eval()
    with torch.no_grad():
        features = model(images(1, size=64))
    reductions = model.feature_info.reduction()
    assert max(reductions) == min(output_stride, 8 * stem_stride)
    assert [64 // reduction for reduction in reductions] == [feature.shape[-1] for feature in features]


@pytest.mark.parametrize("name", VARIED)
def test_features_and_intermediates_agree_with_the_network(name: str) -> None:
    model = create(name, stem_stride=2).eval()
    backbone = create(name, seed=1, stem_stride=2, features_only=True, out_indices=(1, 3)).eval()
    wanted = backbone.state_dict()
    backbone.load_state_dict({key: value for key, value in model.state_dict().items() if key in wanted})
    x = images()
    with torch.no_grad():
        final, intermediates = model.forward_intermediates(x)
        torch.testing.assert_close(list(backbone(x)), [intermediates[1], intermediates[3]])
        torch.testing.assert_close(final, model.forward_features(x))
        torch.testing.assert_close(model(x), model.forward_head(final))
        assert model.forward_head(final, pre_logits=True).shape == (2, model.head_hidden_size)


@pytest.mark.parametrize("name", VARIED)
def test_the_classifier_can_be_taken_away_and_replaced(name: str) -> None:
    model = create(name, num_classes=0, stem_stride=2).eval()
    x = images()
    with torch.no_grad():
        assert model(x).shape == (2, model.num_features)
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)
    kind = DCDLinear if name.endswith("published") else nn.Linear
    assert type(model.get_classifier()) is kind
    assert not model.get_classifier().training
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)


@pytest.mark.parametrize("stem_stride", [1, 4])
@pytest.mark.parametrize("name", VARIED)
def test_images_may_have_one_channel(name: str, stem_stride: int) -> None:
    model = create(name, in_chans=1, num_classes=3, stem_stride=stem_stride).eval()
    assert model(images(2, channels=1, size=28)).shape == (2, 3)


@pytest.mark.parametrize("name", VARIED)
def test_dropout_and_drop_path_act_in_train_mode_only(name: str) -> None:
    model = create(name, num_classes=3, stem_stride=2, drop_rate=0.5, drop_path_rate=0.2)
    assert model.drop_rate == 0.5
    x = images()
    with torch.no_grad():
        assert not model(x).equal(model(x))
        model.eval()
        assert model(x).equal(model(x))
    assert any(type(module).__name__ == "DropPath" for module in model.modules())


@pytest.mark.parametrize("name", VARIED)
def test_gradient_checkpointing_gives_the_same_gradients(name: str) -> None:
    gradients = []
    for enable in (False, True):
        model = create(name, num_classes=3, stem_stride=2).double()
        model.set_grad_checkpointing(enable)
        assert model.grad_checkpointing is enable
        model(images().double()).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("name", VARIED)
def test_a_state_dict_makes_the_round_trip(name: str) -> None:
    first, second = create(name, stem_stride=2).eval(), create(name, seed=1, stem_stride=2).eval()
    x = images()
    with torch.no_grad():
        assert not all(map(torch.equal, first.parameters(), second.parameters()))
        second.load_state_dict(first.state_dict(), strict=True)
        assert first(x).equal(second(x))


@pytest.mark.parametrize("family", TEMPERED)
@pytest.mark.parametrize("size", ["mobilenetv2_035", "resnet10"])
def test_the_temperature_is_part_of_the_state(size: str, family: str) -> None:
    first, second = (create(f"{family}_{size}", num_classes=3) for _ in range(2))
    assert set_temperature(first, 7.0) == len(dynamic_layers(first))
    second.load_state_dict(first.state_dict(), strict=True)
    assert all(float(layer.temperature) == 7.0 for layer in dynamic_layers(second).values())


@pytest.mark.parametrize("family", [*DYNAMIC, "static"])
def test_a_checkpoint_is_loaded_by_path(family: str, tmp_path: Path) -> None:
    name = f"{family}_mobilenetv2_035"
    first = create(name, num_classes=3)
    path = tmp_path / "weights.pth"
    torch.save(first.state_dict(), path)
    second = create(name, seed=1, num_classes=3, checkpoint_path=str(path))
    for (key, mine), theirs in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert mine.equal(theirs), key


@pytest.mark.parametrize("size", ["mobilenetv2_035", "resnet10"])
@pytest.mark.parametrize(
    "dynamic", [*(f"{family}_{{}}" for family in DYNAMIC if family not in DRAWN_ANEW), "dcd_{}_published"]
)
@pytest.mark.parametrize("stem_stride", [2, 4])
def test_twins_of_one_seed_start_from_the_same_static_weights(size: str, dynamic: str, stem_stride: int) -> None:
    """Of one kernel or of the mean of several, and where sums of kernels are larger, at neutral coefficients.

    A kernel that coefficients below one scale is no larger for it: in front of a batch norm that changes nothing but
    how slowly it learns.
    """
    static = create(f"static_{size}", num_classes=3, stem_stride=stem_stride).state_dict()
    model = create(dynamic.format(size), num_classes=3, stem_stride=stem_stride)
    twin = model.state_dict()
    for name, layer in dynamic_layers(model).items():
        key = f"{name}.weight"
        kernel = layer.weight.detach()
        kernel = (kernel.mean(0) if kernel.dim() == 5 else kernel) * max(layer.neutral_gain, 1)
        torch.testing.assert_close(kernel, static.pop(key), **TOLERANCE["float32"], msg=key)
    for key, value in static.items():
        assert twin[key].equal(value), key


@pytest.mark.parametrize("size", ["mobilenetv2_035", "resnet10"])
def test_dcd_keeps_the_static_weights_to_the_bit(size: str) -> None:
    static = create(f"static_{size}", num_classes=3).state_dict()
    twin = create(f"dcd_{size}", num_classes=3).state_dict()
    assert [key for key, value in static.items() if not twin[key].equal(value)] == []


@pytest.mark.parametrize("name", VARIED)
def test_layer_groups_cover_every_parameter(name: str) -> None:
    from timm.models import group_parameters

    model = create(name, device="meta")
    groups = group_parameters(model, model.group_matcher())
    assert sorted(key for keys in groups.values() for key in keys) == sorted(k for k, _ in model.named_parameters())


@pytest.mark.parametrize("size", ["mobilenetv2_035", "resnet10"])
@pytest.mark.parametrize(
    ("family", "options", "shown"),
    [
        ("dcd", {"latent_dim": 3}, "latent_dim=3"),
        ("condconv", {"num_experts": 3}, "num_kernels=3"),
        ("dyconv", {"num_kernels": 3}, "num_kernels=3"),
        ("odconv", {"num_kernels": 1}, "num_kernels=1"),
        ("se", {"min_hidden_channels": 500}, "hidden_channels=500"),
    ],
)
def test_hyperparameters_reach_every_dynamic_layer(
    size: str, family: str, options: dict[str, object], shown: str
) -> None:
    model = create(f"{family}_{size}", device="meta", family_options={**options, "algorithm": "kernel"})
    layers = dynamic_layers(model)
    assert layers
    assert [name for name, layer in layers.items() if shown not in layer.extra_repr()] == []
    assert all(layer.algorithm == "kernel" for layer in layers.values())


@pytest.mark.parametrize("size", ["mobilenetv2_035", "resnet10"])
@pytest.mark.parametrize(
    "options",
    [
        {"stem_stride": 3},
        {"stem_stride": "4"},
        {"family_options": {"latent_dimm": 3}},
        {"family_options": {"latent_dim": 0}},
        {"output_stride": 12},
    ],
    ids=spelled,
)
def test_bad_options_say_what_is_wrong(size: str, options: dict[str, object]) -> None:
    with refuses(ValueError):
        create(f"dcd_{size}", **options)


@pytest.mark.same_messages_for("size")
@pytest.mark.parametrize("size", ["mobilenetv2_035", "resnet10"])
@pytest.mark.parametrize("family", DYNAMIC)
def test_every_family_names_a_misspelt_hyperparameter(size: str, family: str) -> None:
    with refuses(ValueError, "algoritm"):
        create(f"{family}_{size}", family_options={"algoritm": "kernel"})


@pytest.mark.parametrize("name", ["dcd_mobilenetv2_035", "static_resnet10"])
def test_a_misspelt_option_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="stem_strid"):
        create(name, stem_strid=2)
