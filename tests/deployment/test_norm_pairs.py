"""Which batch norms `deploy` folds: those that are proven to be the only reader of one convolution."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from dynaconv.conversion.conversion import convert
from dynaconv.deployment import deploy, plan_deployment
from dynaconv.errors import ConversionError
from dynaconv.families import CondConv2d, DCDConv2d, SEConv2d
from tests.deployment.test_deploy import count_norms, images, seasoned
from tests.helpers import TOLERANCE
from tests.messages import refuses


class Wired(nn.Module):
    """A convolution and a batch norm, wired up by a function of the module and its input."""

    def __init__(self, wire: Callable[[Any, Tensor], Any], conv: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv or CondConv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.bn_too = nn.BatchNorm2d(4)
        self.wire = wire

    def forward(self, x: Tensor) -> Any:
        return self.wire(self, x)


def kept_by_the_module(module: Any, x: Tensor) -> Tensor:
    module.seen = module.conv(x)
    return module.bn(module.seen)


FOLDED: dict[str, Callable[[Any, Tensor], Any]] = {
    "direct": lambda m, x: m.bn(m.conv(x)),
    "shape is read": lambda m, x: [y := m.conv(x), m.bn(y.contiguous()) * y.shape[0] + y.dim()][1],
    "dropout and identity between": lambda m, x: m.bn(nn.functional.dropout(m.conv(x), training=m.training)),
    "input also used": lambda m, x: m.bn(m.conv(x)) + x,
    "output changed in place": lambda m, x: m.bn(m.conv(x)).relu_(),
}
KEPT: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "shortcut": (lambda m, x: [y := m.conv(x), m.bn(y) + y][1], "something else reads"),
    "read before": (lambda m, x: [y := m.conv(x), y.mean(), m.bn(y)][2], "something else reads"),
    "two norms": (lambda m, x: [y := m.conv(x), m.bn(y) + m.bn_too(y)][1], "something else reads"),
    "view": (lambda m, x: m.bn(m.conv(x).flatten(2).reshape(x.shape)), "does not read a convolution"),
    "relu between": (lambda m, x: m.bn(m.conv(x).relu()), "does not read a convolution"),
    "changed in place": (lambda m, x: m.bn(m.conv(x).mul_(2)), "something else reads"),
    "returned too": (lambda m, x: [y := m.conv(x), (m.bn(y), y)][1], "is kept or returned"),
    "returned deep inside": (lambda m, x: [y := m.conv(x), {"a": [m.bn(y)], "b": [[y]]}][1], "is kept or returned"),
    "kept": (kept_by_the_module, "is kept or returned"),
    "convolution twice": (lambda m, x: m.bn(m.conv(m.conv(x))), "'conv' runs 2 times"),
    "norm twice": (lambda m, x: m.bn(m.bn(m.conv(x))), "'bn' runs 2 times"),
    "not run": (lambda m, x: m.conv(x), "it did not run"),
    "no convolution": (lambda m, x: m.conv(m.bn(x)), "does not read a convolution"),
}


def same_outputs(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, **TOLERANCE["float64"])


@pytest.mark.parametrize("case", FOLDED)
def test_folds(case: str) -> None:
    model, x = seasoned(Wired(FOLDED[case])), images(2, 4, 6, 5)
    plan = plan_deployment(model, (2, 4, 6, 5))
    assert dict(plan.folded) == {"bn": "conv"}
    same_outputs(plan.apply(model)(x), model(x))


@pytest.mark.parametrize("case", KEPT)
def test_keeps_what_is_not_proven(case: str) -> None:
    wire, reason = KEPT[case]
    model, x = seasoned(Wired(wire)), images(2, 4, 6, 5)
    plan = plan_deployment(model, (2, 4, 6, 5))
    assert plan.folded == {}
    assert reason in plan.kept["bn"]
    same_outputs(plan.apply(model)(x), model(x))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated")
def test_a_reader_in_torchscript_is_seen() -> None:
    mean = torch.jit.trace(lambda x: x.mean(), (torch.zeros(1, 4, 3, 3),))
    model = Wired(lambda m, x: [y := m.conv(x), m.bn(y) + mean(y)][1])
    assert "something else reads" in plan_deployment(seasoned(model), (2, 4, 6, 5)).kept["bn"]


def hooked(model: Wired) -> None:
    model.bn.register_forward_hook(lambda module, args, output: None)


def hooked_conv(model: Wired) -> None:
    model.conv.register_forward_hook(lambda module, args, output: output * 2)


def tied(model: Wired) -> None:
    model.other = copy.deepcopy(model.conv)
    model.other.weight = model.conv.weight


def no_statistics(model: Wired) -> None:
    model.bn = nn.BatchNorm2d(4, track_running_stats=False).double().eval()


def parametrised(model: Wired) -> None:
    model.conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1)).double()


def own_convolution(model: Wired) -> None:
    class Twice(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).square()

    model.conv = Twice(4, 4, 3, padding=1).double()


def own_norm(model: Wired) -> None:
    class Clamped(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).clamp(0, 1)

    model.bn = seasoned(Clamped(4))


def vanishing(model: Wired) -> None:
    model.conv = SEConv2d(4, 4, 1).double()
    model.bn.weight.data[2] = 0


CHANGES: list[tuple[Callable[[Wired], None], str]] = [
    (hooked, "it has hooks"),
    (hooked_conv, "it has hooks"),
    (tied, "shared with 'other.weight'"),
    (no_statistics, "statistics of the batch"),
    (parametrised, "computed from others"),
    (own_convolution, "Twice computes something else"),
    (own_norm, "Clamped computes something else"),
    (vanishing, "a channel's scale is zero"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_keeps_the_norm_of_layers_that_it_does_not_know(change: Callable[[Wired], None], reason: str) -> None:
    model, x = Wired(FOLDED["direct"]), images(2, 4, 6, 5)
    seasoned(model)
    change(model)
    plan = plan_deployment(model, (2, 4, 6, 5))
    assert plan.folded == {}
    assert reason in plan.kept["bn"]
    same_outputs(plan.apply(model)(x), model(x))


def frozen_norm() -> nn.Module:
    norm = torchvision.ops.FrozenBatchNorm2d(4)
    for name, tensor in norm.named_buffers():
        tensor.copy_(torch.rand(4) + (0.5 if name in ("weight", "running_var") else 0.0))
    return norm


@pytest.mark.parametrize(
    "norm",
    [
        frozen_norm,
        lambda: nn.SyncBatchNorm(4),
        lambda: timm.layers.BatchNormAct2d(4, act_layer=nn.SiLU),
        lambda: timm.layers.BatchNormAct2d(4, apply_act=False),
        lambda: timm.layers.BatchNormAct2d(4, drop_layer=nn.Dropout2d),
        lambda: timm.layers.FrozenBatchNormAct2d(4),
    ],
    ids=["torchvision frozen", "sync", "timm silu", "timm no activation", "timm dropout", "timm frozen"],
)
def test_folds_the_norms_of_other_libraries(norm: Callable[[], nn.Module]) -> None:
    model = Wired(FOLDED["direct"], DCDConv2d(4, 4, 1))
    model.bn = norm()  # type: ignore[assignment]
    seasoned(model)
    x = images(2, 4, 6, 5)
    plan = plan_deployment(model, (2, 4, 6, 5))
    assert dict(plan.folded) == {"bn": "conv"}
    same_outputs(plan.apply(model)(x), model(x))
    assert not any("BatchNorm" in type(module).__name__ for module in (plan.apply(model).bn,))


def test_a_module_with_two_names_is_replaced_under_both() -> None:
    model = Wired(FOLDED["direct"])
    model.alias = model.bn
    seasoned(model)
    deployed = deploy(model, (4, 6, 5))
    assert isinstance(deployed.alias, nn.Identity)
    same_outputs(deployed(images(2, 4, 6, 5)), model(images(2, 4, 6, 5)))


def test_a_detector_is_folded_on_an_example() -> None:
    detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    model = seasoned(convert(detector, "dcd", include="backbone.*", kinds="pointwise")).float()
    x = [images(3, 320, 320, dtype=torch.float32)]
    deployed = deploy(model, example=(x,))
    assert count_norms(model) > 40
    assert count_norms(deployed) == 0
    for key, value in model.backbone(images(1, 3, 320, 320, dtype=torch.float32)).items():
        got = deployed.backbone(images(1, 3, 320, 320, dtype=torch.float32))[key]
        assert (got - value).abs().max() < 1e-3 * value.abs().max()


@pytest.mark.parametrize("name", ["dcd_resnet18_published", "dcd_mobilenetv2_050_published", "odconv_mobilenetv2_035"])
def test_registered_networks_lose_every_norm(name: str) -> None:
    """Pair by pair, each on an input of its own: with random weights whole deep networks amplify any rounding."""
    import dynaconv.models  # noqa: F401

    model = seasoned(timm.create_model(name, num_classes=7, stem_stride=1))
    plan = plan_deployment(model, (2, 3, 16, 16))
    deployed = plan.apply(model)
    assert count_norms(deployed) == 0
    assert len(plan.folded) >= 20
    for norm, conv in plan.folded.items():
        x = images(2, model.get_submodule(conv).in_channels, 4, 3)  # type: ignore[arg-type]
        got = deployed.get_submodule(norm)(deployed.get_submodule(conv)(x))
        same_outputs(got, model.get_submodule(norm)(model.get_submodule(conv)(x)))


def test_mistakes() -> None:
    model = Wired(FOLDED["direct"])
    with refuses(TypeError, "model"):
        deploy("network")  # type: ignore[arg-type]
    with refuses(ConversionError, "conv.weight"):
        deploy(copy.deepcopy(model).to("meta"))
    with refuses(ConversionError, "0.weight"):
        deploy(nn.Sequential(nn.LazyConv2d(3, 1)))
    with refuses(ConversionError, "input_size"):
        deploy(model, (4, 6))
    with refuses(ConversionError):
        deploy(model, (4, 6, 5), example=torch.zeros(1, 4, 6, 5))
    state, training = copy.deepcopy(model.state_dict()), model.training
    with refuses(ConversionError, "CondConv2d"):
        deploy(model, (3, 6, 5), inplace=True)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert model.training == training
    assert not model.bn._forward_hooks
    with refuses(ConversionError, "'bn'"):
        plan_deployment(model, (4, 6, 5)).apply(nn.Sequential(nn.Conv2d(3, 3, 1)))
