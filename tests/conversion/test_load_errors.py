"""A checkpoint that does not fit: what the error says, and that the model is as it was."""

import re
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
from tests.messages import refuses, spelled

State = dict[str, Tensor]


@contextmanager
def refused(model: nn.Module, *names: str) -> Iterator[None]:
    """The block raises CheckpointError with these names and leaves every tensor of the model alone."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with refuses(CheckpointError, *names):
        yield
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
    ("network", "options", "source"),
    [
        ("dcd_mobilenetv2_050_published", {}, "dcd mobilenetv2"),
        ("dcd_mobilenetv2_035_published", {"num_classes": 100}, "dcd mobilenetv2"),
        ("dcd_mobilenetv2_035_published", {"fc_squeeze": 16}, "dcd mobilenetv2"),
        ("dcd_mobilenetv2_035_published", {"in_chans": 1, "num_classes": 3, "fc_squeeze": 4}, "dcd mobilenetv2"),
        ("dcd_mobilenetv2_035_published", {"num_classes": 0}, "dcd mobilenetv2"),
        ("dcd_mobilenetv2_035", {}, "dcd mobilenetv2"),
        ("static_mobilenetv2_035", {}, "dcd mobilenetv2"),
        ("dcd_resnet18_published", {}, "dcd mobilenetv2"),
        ("dcd_resnet18_published", {}, "dcd resnet10"),
        ("dcd_resnet10_published", {"num_classes": 0}, "dcd resnet10"),
        ("dcd_resnet10_published", {"stem_stride": 2}, "dcd resnet10"),
        ("dcd_mobilenetv2_035", {}, "odconv mobilenetv2"),
        ("dcd_resnet10", {"num_classes": 5}, "resnet10"),
        ("dcd_resnet18", {}, "resnet10"),
        ("dcd_mobilenetv2_050", {}, "mobilenetv2"),
        ("static_mobilenetv2_035", {}, "resnet10"),
    ],
    ids=spelled,
)
def test_the_error_says_what_to_do(
    network: str, options: dict[str, Any], source: str, states: Callable[[str], State]
) -> None:
    model = make(network, **options)
    with refused(model, *options):
        load_published(model, states(source))


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(64, dtype=torch.int32),
        torch.ones(64, dtype=torch.complex64),
        torch.ones(64).to_sparse(),
        torch.ones(64, device="meta"),
        torch.tensor(1.0),
    ],
    ids=["integers", "complex", "sparse", "meta device", "scalar"],
)
def test_one_bad_tensor_stops_all(value: Tensor, states: Callable[[str], State]) -> None:
    model = make("dcd_resnet10")
    with refused(model, "bn1.weight"):
        load_published(model, {**states("resnet10"), "bn1.weight": value})


def test_missing_and_unexpected_tensors_are_named_and_counted(states: Callable[[str], State]) -> None:
    state = {key: value for key, value in states("dcd mobilenetv2").items() if not key.startswith("features.5.conv.6.")}
    del state["features.5.conv.7.running_mean"]
    state["aux.weight"] = torch.ones(1)
    model = make("dcd_mobilenetv2_035_published")
    with refused(model, "features.5.conv.6.conv.weight", "aux.weight"):
        load_published(model, state)


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_dict_of_something_else(strict: bool) -> None:
    model = make("dcd_resnet10")
    with refused(model, "conv1.weight", "'bias'"):
        load_published(model, nn.Linear(3, 2).state_dict(), strict=strict)


def test_a_file_without_a_name_of_the_model_gets_no_advice_on_its_classes(states: Callable[[str], State]) -> None:
    model = nn.Conv2d(3, 3, 3)
    with refuses(CheckpointError, "conv_stem.weight") as caught:
        load_published(model, states("mobilenetv2"))
    assert not re.search("num_classes|strict=False", str(caught.value))


def test_shapes_have_to_fit_when_not_strict_too(states: Callable[[str], State]) -> None:
    model = make("dcd_mobilenetv2_035", num_classes=5)
    with refused(model, "num_classes=10"):
        load_published(model, states("mobilenetv2"), strict=False)


@pytest.mark.parametrize("network", ["dcd_resnet10", "dcd_mobilenetv2_035"])
def test_features_only_is_refused_and_the_way_out_works(network: str, states: Callable[[str], State]) -> None:
    features = timm.create_model(network, features_only=True)
    source = states("resnet10" if "resnet" in network else "mobilenetv2")
    with refused(features, "features_only=True"):
        load_published(features, source)
    whole = make(network)
    load_published(whole, source)
    assert features.load_state_dict(whole.state_dict(), strict=False).missing_keys == []


def test_a_model_without_memory_is_refused(states: Callable[[str], State]) -> None:
    with refuses(CheckpointError):
        load_published(make("dcd_resnet10", device="meta"), states("resnet10"))
    with refuses(CheckpointError, "Identity"):
        load_published(nn.Identity(), states("resnet10"))


def test_another_family_of_ours_is_refused(states: Callable[[str], State]) -> None:
    model = make("dcd_mobilenetv2_035")
    other = make("dcd_mobilenetv2_035", family_options={"variant": "scale"}).state_dict()
    other = {key.replace(".scale.", ".filter."): value for key, value in other.items()}
    with refused(model):
        load_published(model, other)


def test_the_arguments_the_wrong_way_round(states: Callable[[str], State]) -> None:
    with pytest.raises(TypeError, match="Module"):
        load_published(states("resnet10"), make("dcd_resnet10"))  # type: ignore[arg-type]
