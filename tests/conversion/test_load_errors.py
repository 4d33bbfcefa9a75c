"""A checkpoint that does not fit: what the error says, and that the model is as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from dynaconv.conversion import load_published
from dynaconv.errors import CheckpointError
from tests.conversion.published_networks import DCDMobileNetV2, ODConvMobileNetV2, PublishedResNet

State = dict[str, Tensor]


@contextmanager
def refused(model: nn.Module, *phrases: str) -> Iterator[None]:
    """The block raises CheckpointError with these phrases and leaves every tensor of the model alone."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        yield
    for phrase in phrases:
        assert phrase in str(caught.value)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def make(name: str, **options: Any) -> nn.Module:
    network: nn.Module = timm.create_model(name, **{"num_classes": 10, **options})
    return network


@pytest.fixture(scope="module")
def states() -> Callable[[str], State]:
    """State dicts of networks with ten classes, made once each."""
    made: dict[str, State] = {}
    builders: dict[str, Callable[[], nn.Module]] = {
        "dcd mobilenetv2": lambda: DCDMobileNetV2(0.35, 10),
        "dcd resnet10": lambda: PublishedResNet("dcd", (64, 128, 256, 512), (1, 1, 1, 1), 10),
        "odconv mobilenetv2": lambda: ODConvMobileNetV2(0.35, 10),
        "mobilenetv2": lambda: make("mobilenetv2_035"),
        "resnet10": lambda: make("static_resnet10"),
    }

    def get(name: str) -> State:
        if name not in made:
            made[name] = builders[name]().state_dict()
        return dict(made[name])

    return get


@pytest.mark.parametrize(
    ("network", "options", "source", "phrases"),
    [
        (
            "dcd_mobilenetv2_050_published",
            {},
            "dcd mobilenetv2",
            [
                "a DCD MobileNetV2 (mobilenetv2_035)",
                "the model is a mobilenetv2_050, build dcd_mobilenetv2_035_published",
                "tensors do not fit",
                "'features.2.conv.6.conv.weight' is 8x48x1x1 and should be 16x48x1x1",
                "'features.2.conv.6.conv_q.weight' is 4x48x1x1 and should be 8x48x1x1 and 539 more",
            ],
        ),
        (
            "dcd_mobilenetv2_035_published",
            {"num_classes": 100},
            "dcd mobilenetv2",
            ["build the model with num_classes=10; to train other classes, call model.reset_classifier(...)"],
        ),
        (
            "dcd_mobilenetv2_035_published",
            {"fc_squeeze": 16},
            "dcd mobilenetv2",
            ["build the model with fc_squeeze=8; ", "'features.2.conv.6.fc.0.weight' is 6x48 and should be 4x48"],
        ),
        (
            "dcd_mobilenetv2_035_published",
            {"in_chans": 1, "num_classes": 3, "fc_squeeze": 4},
            "dcd mobilenetv2",
            ["build the model with in_chans=3, num_classes=10 and fc_squeeze=8"],
        ),
        (
            "dcd_mobilenetv2_035_published",
            {"num_classes": 0},
            "dcd mobilenetv2",
            ["num_classes=10; or pass strict=False", "18 tensors were not expected: 'classifier.0.cls.weight'"],
        ),
        (
            "dcd_mobilenetv2_035",
            {},
            "dcd mobilenetv2",
            ["DCDConv2d of another structure; build dcd_mobilenetv2_035_pub"],
        ),
        ("static_mobilenetv2_035", {}, "dcd mobilenetv2", ["the model has static convolutions; build dcd_mobile"]),
        ("dcd_resnet18_published", {}, "dcd mobilenetv2", ["the model is a resnet18; build dcd_mobilenetv2_035_pub"]),
        ("dcd_resnet18_published", {}, "dcd resnet10", ["the model is a resnet18, build dcd_resnet10_published"]),
        ("dcd_resnet10_published", {"num_classes": 0}, "dcd resnet10", ["num_classes=10; or pass strict=False"]),
        (
            "dcd_resnet10_published",
            {"stem_stride": 2},
            "dcd resnet10",
            ["with stem_stride=4; 1 tensor does not fit: 'conv1.weight' is 64x3x7x7 and should be 64x3x3x3."],
        ),
        (
            "dcd_mobilenetv2_035",
            {},
            "odconv mobilenetv2",
            ["it is an ODConv MobileNetV2", "build odconv_mobilenetv2_035"],
        ),
        (
            "dcd_resnet10",
            {"num_classes": 5},
            "resnet10",
            ["with num_classes=10", "'fc.weight' is 10x512 and should be 5"],
        ),
        ("dcd_resnet18", {}, "resnet10", ["the model is a resnet18, build static_resnet10 or a dynamic twin of it"]),
        ("dcd_mobilenetv2_050", {}, "mobilenetv2", ["build static_mobilenetv2_035 or a dynamic twin of it"]),
        ("static_mobilenetv2_035", {}, "resnet10", ["a static ResNet (resnet10), the model is a mobilenetv2_035"]),
    ],
)
def test_the_error_says_what_to_do(
    network: str, options: dict[str, Any], source: str, phrases: list[str], states: Callable[[str], State]
) -> None:
    model = make(network, **options)
    with refused(model, *phrases):
        load_published(model, states(source))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(64, dtype=torch.int32), "'bn1.weight' holds int32 and should hold dense floating-point numbers"),
        (torch.ones(64, dtype=torch.complex64), "'bn1.weight' holds complex64 and should"),
        (torch.ones(64).to_sparse(), "'bn1.weight' holds sparse float32 and should"),
        (torch.ones(64, device="meta"), "'bn1.weight' is on the meta device, without data"),
        (torch.tensor(1.0), "'bn1.weight' is a scalar and should be 64"),
    ],
)
def test_one_bad_tensor_stops_all(value: Tensor, message: str, states: Callable[[str], State]) -> None:
    model = make("dcd_resnet10")
    with refused(model, f"1 tensor does not fit: {message}"):
        load_published(model, {**states("resnet10"), "bn1.weight": value})


def test_missing_and_unexpected_tensors_are_named_and_counted(states: Callable[[str], State]) -> None:
    state = {key: value for key, value in states("dcd mobilenetv2").items() if not key.startswith("features.5.conv.6.")}
    del state["features.5.conv.7.running_mean"]
    state["aux.weight"] = torch.ones(1)
    model = make("dcd_mobilenetv2_035_published")
    with refused(
        model, "16 tensors are missing: 'features.5.conv.6.conv.weight', 'features.5.", "expected: 'aux.weight'."
    ):
        load_published(model, state)


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_dict_of_something_else(strict: bool) -> None:
    model = make("dcd_resnet10")
    with refused(model, "tensors are missing: 'conv1.weight'", "2 tensors were not expected: 'weight', 'bias'"):
        load_published(model, nn.Linear(3, 2).state_dict(), strict=strict)


def test_shapes_have_to_fit_when_not_strict_too(states: Callable[[str], State]) -> None:
    model = make("dcd_mobilenetv2_035", num_classes=5)
    with refused(model, "build the model with num_classes=10"):
        load_published(model, states("mobilenetv2"), strict=False)


@pytest.mark.parametrize("network", ["dcd_resnet10", "dcd_mobilenetv2_035"])
def test_features_only_is_refused_and_the_way_out_works(network: str, states: Callable[[str], State]) -> None:
    features = timm.create_model(network, features_only=True)
    source = states("resnet10" if "resnet" in network else "mobilenetv2")
    with refused(features, "features_only=True", "features.load_state_dict(..., strict=False)"):
        load_published(features, source)
    whole = make(network)
    load_published(whole, source)
    assert features.load_state_dict(whole.state_dict(), strict=False).missing_keys == []


def test_a_model_without_memory_is_refused(states: Callable[[str], State]) -> None:
    with pytest.raises(CheckpointError, match="on the meta device, which holds no weights"):
        load_published(make("dcd_resnet10", device="meta"), states("resnet10"))


def test_another_family_of_ours_is_refused(states: Callable[[str], State]) -> None:
    model = make("dcd_mobilenetv2_035")
    other = make("dcd_mobilenetv2_035", family_options={"variant": "scale"}).state_dict()
    other = {key.replace(".scale.", ".filter."): value for key, value in other.items()}
    with refused(model, "build the family that it was saved from", "tensors are missing", "tensors were not expected"):
        load_published(model, other)


def test_the_arguments_the_wrong_way_round(states: Callable[[str], State]) -> None:
    with pytest.raises(TypeError, match=r"load_published takes a torch\.nn\.Module first"):
        load_published(states("resnet10"), make("dcd_resnet10"))  # type: ignore[arg-type]
