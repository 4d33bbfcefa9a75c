"""`convert`: which convolutions it takes, what they carry over, and that the network's function stays."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import convert, deploy, plan_conversion, revert
from dynaconv.errors import ConversionError
from dynaconv.families import CondConv2d, DCDConv2d, DYConv2d, DynamicConv2d
from tests.helpers import LAYERS, TOLERANCE
from tests.messages import refuses, spelled


class Block(nn.Module):
    """1x1, depthwise 3x3, 1x1, each with a batch norm, and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.expand = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.project = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.bn2(self.depthwise(self.bn1(self.expand(x)).relu())).relu())


class Network(nn.Module):
    """A stem, two blocks, a grouped and an ordinary convolution, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.last = nn.Conv2d(12, 10, (3, 1), padding="same", padding_mode="reflect")
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.grouped(self.blocks(self.stem(x)))).mean((2, 3)))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 14, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network(images: Tensor) -> Network:
    torch.manual_seed(0)
    model = Network()
    for _ in range(3):
        model(images)
    return model.eval()


def dynamic_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, DynamicConv2d)]


@pytest.mark.parametrize("family", sorted(LAYERS))
def test_function_stays_and_comes_back(family: str, network: Network, images: Tensor) -> None:
    before = network(images)
    state = copy.deepcopy(network.state_dict())
    dynamic = convert(network, family, min_channels=1)
    assert dynamic is not network
    assert dynamic_names(network) == []
    torch.testing.assert_close(dynamic(images), before, **TOLERANCE["float32 twin"])
    static = revert(dynamic)
    assert len(dynamic_names(dynamic)) > 3
    assert dynamic_names(static) == []
    torch.testing.assert_close(static(images), before, **TOLERANCE["float32 twin"])
    assert list(static.state_dict()) == list(state)
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize("family", sorted(LAYERS))
def test_training_leaves_the_start(family: str, network: Network, images: Tensor) -> None:
    """Two steps move every dynamic layer: the first reaches its heads, the second what stands before them."""
    dynamic = convert(network, family, min_channels=1).train()
    start = copy.deepcopy(dynamic.state_dict())
    optimizer = torch.optim.SGD(dynamic.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(dynamic(images), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    for name in dynamic_names(dynamic):
        layer = dynamic.get_submodule(name)
        assert isinstance(layer, DynamicConv2d)
        assert not layer.is_neutral, name
        assert any(not torch.equal(value, start[f"{name}.{key}"]) for key, value in layer.state_dict().items()), name
    with refuses(ConversionError, "dynaconv.freeze"):
        revert(dynamic)


def test_kernels_of_a_mixture_differ_and_their_mean_does_not(network: Network) -> None:
    layer = convert(network, "dyconv").last
    assert isinstance(layer, DYConv2d)
    differences = layer.weight - network.last.weight
    assert differences.abs().amax((1, 2, 3, 4)).min() > 0.01
    torch.testing.assert_close(layer.weight.mean(0), network.last.weight, **TOLERANCE["float32 twin"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["blocks.0.expand", "blocks.0.project", "blocks.1.expand", "blocks.1.project", "grouped", "last"]),
        ({"include": "blocks.1.*"}, ["blocks.1.expand", "blocks.1.project"]),
        ({"include": ["grouped", "*project"]}, ["blocks.0.project", "blocks.1.project", "grouped"]),
        ({"include": re.compile(r"1\.(expand|project)$")}, ["blocks.1.expand", "blocks.1.project"]),
        ({"exclude": "blocks.*"}, ["grouped", "last"]),
        ({"kinds": "depthwise"}, ["blocks.0.depthwise", "blocks.1.depthwise"]),
        ({"kinds": ("grouped", "spatial")}, ["grouped", "last"]),
        ({"include": "blocks.0.depthwise"}, ["blocks.0.depthwise"]),
        ({"include": "stem"}, ["stem"]),
        ({"kernel_sizes": 1}, ["blocks.0.expand", "blocks.0.project", "blocks.1.expand", "blocks.1.project"]),
        ({"kernel_sizes": (1, 3), "min_channels": 10}, ["last"]),
        ({"max_channels": 8, "position": slice(-1, None)}, ["grouped"]),
        ({"position": slice(0, 2)}, ["blocks.0.expand", "blocks.0.project"]),
        ({"predicate": lambda name, conv: conv.bias is None}, ["blocks.0.expand", "blocks.1.expand"]),
    ],
)
def test_selection(options: dict[str, Any], expected: list[str], network: Network) -> None:
    plan = plan_conversion(network, "dcd", **options)
    assert [layer.name for layer in plan.converted] == expected
    assert dynamic_names(plan.apply(network)) == expected


def test_plan_says_what_and_why_and_counts_exactly(network: Network) -> None:
    plan = plan_conversion(network, "dcd", latent_dim=2)
    text = str(plan)
    assert re.search(r"stem +spatial +3 -> 8, 3x3, stride 2 +static: the stem", text)
    assert re.search(r"blocks.0.depthwise +depthwise +16 -> 16, 3x3 +static: depthwise, not among the kinds", text)
    assert "dcd, latent_dim=2: 6 of 9 convolutions become dynamic" in text
    dynamic = plan.apply(network)
    assert plan.params == sum(p.numel() for p in network.parameters())
    assert plan.converted_params == sum(p.numel() for p in dynamic.parameters())


def test_layers_carry_over_what_the_convolution_had(network: Network) -> None:
    model = network.double().to(memory_format=torch.channels_last)
    model.grouped.weight.requires_grad_(False)
    model.last.train()
    model.last.note = "kept"
    seen: list[str] = []
    model.last.register_forward_hook(lambda *_: seen.append("hook"))
    dynamic = convert(model, "condconv", num_experts=3)
    layer = dynamic.last
    assert isinstance(layer, CondConv2d)
    assert layer.num_kernels == 3
    assert (layer.padding, layer.padding_mode, layer.kernel_size) == ("same", "reflect", (3, 1))
    assert layer.weight.dtype == torch.float64
    assert layer.weight[0].is_contiguous(memory_format=torch.channels_last)
    assert layer.training
    assert not dynamic.grouped.training
    assert not dynamic.grouped.weight.requires_grad
    assert layer.note == "kept"
    dynamic(torch.randn(2, 3, 14, 10, dtype=torch.float64))
    assert seen == ["hook"]
    static = revert(dynamic).last
    assert static.note == "kept"
    assert len(static._forward_hooks) == 1
    assert not hasattr(static, "hyperparameters")


def test_module_with_two_names_stays_one(images: Tensor) -> None:
    torch.manual_seed(0)
    shared = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), shared, nn.ReLU(), shared, nn.Sequential(shared))
    before = model(images)
    dynamic = convert(model)
    assert isinstance(dynamic[1], DCDConv2d)
    assert dynamic[1] is dynamic[3] is dynamic[4][0]
    torch.testing.assert_close(dynamic(images), before, **TOLERANCE["float32 twin"])
    static = revert(dynamic)
    assert static[1] is static[3] is static[4][0]


def test_inplace_changes_the_model_itself_and_nothing_on_failure(network: Network) -> None:
    assert convert(network, inplace=True) is network
    assert dynamic_names(network)
    state = copy.deepcopy(network)
    with refuses(ConversionError):
        convert(network, inplace=True)
    assert dynamic_names(network) == dynamic_names(state)
    assert revert(network, inplace=True) is network
    assert dynamic_names(network) == []


def test_again_converts_what_is_static_still(network: Network, images: Tensor) -> None:
    before = network(images)
    dynamic = convert(convert(network, "dcd"), "odconv", kinds="depthwise", again=True)
    assert len(dynamic_names(dynamic)) == 8
    torch.testing.assert_close(dynamic(images), before, **TOLERANCE["float32 twin"])


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.same_messages_for("again")
def test_a_deployed_network_is_not_converted(network: Network, again: bool) -> None:
    deployed = deploy(convert(network, "dcd"))
    with refuses(ConversionError, "blocks.0.expand"):
        convert(deployed, "odconv", again=again)


def test_a_plan_belongs_to_its_model(network: Network) -> None:
    plan = plan_conversion(network)
    with refuses(ConversionError, "blocks.0.expand"):
        plan.apply(nn.Sequential(nn.Conv2d(3, 8, 1)))


def test_a_convolution_alone(images: Tensor) -> None:
    conv = nn.Conv2d(3, 5, 3)
    layer = convert(conv)
    assert isinstance(layer, DCDConv2d)
    torch.testing.assert_close(layer(images), conv(images), **TOLERANCE["float32 twin"])
    assert isinstance(revert(layer), nn.Conv2d)
    with refuses(ConversionError, "inplace"):
        convert(conv, inplace=True)


@pytest.mark.parametrize(
    "options",
    [
        {"family": "dcdd"},
        {"include": "layer9.*"},
        {"exclude": "nothing"},
        {"include": "fc"},
        {"include": "blocks"},
        {"include": ()},
        {"kinds": "wide"},
        {"kernel_sizes": 0},
        {"min_channels": 1000},
        {"latent_dims": 3},
        {"includes": "x"},
        {"include": "last", "blocks": 3},
    ],
    ids=spelled,
)
def test_mistakes_are_named_and_change_nothing(options: dict[str, Any], network: Network) -> None:
    with refuses(ConversionError):
        convert(network, inplace=True, **options)
    assert dynamic_names(network) == []


def test_wrong_types(network: Network) -> None:
    with refuses(TypeError, "model"):
        convert("resnet18")  # type: ignore[arg-type]
    with refuses(TypeError, "include"):
        convert(network, include=[3])  # type: ignore[list-item]
    with refuses(TypeError, "position"):
        convert(network, position=3)  # type: ignore[arg-type]
    with refuses(TypeError, "predicate"):
        convert(network, predicate="conv1")  # type: ignore[arg-type]
    with refuses(ConversionError):
        revert(network)
    with refuses(ConversionError):
        convert(nn.Linear(3, 4))


def test_a_layer_that_cannot_be_taken_is_left_and_named() -> None:
    class Odd(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    tied = nn.Conv2d(8, 8, 1)
    twin = nn.Conv2d(8, 8, 1)
    twin.weight = tied.weight
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1))
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Odd(8, 8, 1), tied, twin, normed, nn.Conv2d(8, 8, 1))
    plan = plan_conversion(model)
    reasons = {layer.name: layer.reason for layer in plan.layers}
    assert [layer.name for layer in plan.converted] == ["5"]
    assert reasons["1"] == "its class Odd computes something else than Conv2d"
    assert reasons["2"] == "its weight is shared with '3.weight'"
    assert "parametrisation" in str(reasons["4"])
    for name in ("1", "2", "4"):
        with refuses(ConversionError, f"'{name}'"):
            convert(model, include=[name])


def test_what_cannot_be_copied_or_is_wrapped() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1))
    with refuses(ConversionError, "DataParallel"):
        convert(nn.DataParallel(model))
    with refuses(ConversionError, "OptimizedModule"):
        convert(torch.compile(model))  # type: ignore[arg-type]
    model[1].extra = torch.ones(1, requires_grad=True) * 2
    with refuses(ConversionError, "inplace=True"):
        convert(model)
    assert dynamic_names(convert(model, inplace=True)) == ["1"]


def test_meta_and_half_precision() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3))
    layer = convert(model)[1]
    assert layer.weight.is_meta
    half = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3)).to(torch.bfloat16)
    x = torch.randn(2, 3, 5, 5).bfloat16()
    dynamic = convert(half)
    assert dynamic[1].p.dtype == torch.bfloat16
    torch.testing.assert_close(dynamic(x), half(x), **TOLERANCE["bfloat16"])
