"""Checkpoints of the published KernelWarehouse networks, and static ones, in KernelWarehouse networks."""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from dynaconv import load_published
from dynaconv.errors import CheckpointError
from dynaconv.models import DynamicMobileNetV2, DynamicResNet
from tests.conversion.published_networks import images, warmed
from tests.helpers import TOLERANCE
from tests.messages import refuses

CHANNELS = (16, 24, 32, 40)
# Published names of a MobileNetV2's modules, by ours.
MOBILENET = [
    (r"^conv_stem", "features.0.0"),
    (r"^bn1", "features.0.1"),
    (r"^conv_head", "features.18.0"),
    (r"^bn2", "features.18.1"),
    (r"^blocks\.0\.0\.conv_dw", "features.1.conv.0.0"),
    (r"^blocks\.0\.0\.bn1", "features.1.conv.0.1"),
    (r"^blocks\.0\.0\.conv_pw", "features.1.conv.1"),
    (r"^blocks\.0\.0\.bn2", "features.1.conv.2"),
    (r"\.conv_pwl", ".conv.2"),
    (r"\.bn3", ".conv.3"),
    (r"\.conv_pw", ".conv.0.0"),
    (r"\.bn1", ".conv.0.1"),
    (r"\.conv_dw", ".conv.1.0"),
    (r"\.bn2", ".conv.1.1"),
]
DEPTHS = (1, 2, 3, 4, 3, 3, 1)


def published(state: dict[str, Tensor], *, mobilenet: bool = False) -> dict[str, Tensor]:
    """The state of one of our networks under the names of the published code."""
    renamed: dict[str, Tensor] = {}
    warehouses = 0
    for key, tensor in state.items():
        if key.endswith(".temperature"):
            continue
        if key.endswith(".warehouse.cells"):
            renamed[f"warehouse_manager.weights.{warehouses}"] = tensor
            warehouses += 1
            continue
        if mobilenet:
            for pattern, name in MOBILENET:
                key, replaced = re.subn(pattern, name, key)
                if replaced:
                    break
            if match := re.match(r"blocks\.(\d)\.(\d)\.", key):
                number = 1 + sum(DEPTHS[: int(match[1])]) + int(match[2])
                key = f"features.{number}.{key[match.end() :]}"
            inner = ".conv" if "classifier.warehouse.cells" in state else ""
            key = re.sub(r"^classifier\.", f"classifier.1{inner}.", key)
        for ours, theirs in (
            ("branch.squeeze", "attention.fc1"),
            ("branch.norm", "attention.norm1"),
            ("branch.heads.attention", "attention.fc2"),
            ("branch.basis", "attention.fc3"),
            ("branch.constant", "attention.basis_bias"),
        ):
            key = key.replace(ours, theirs)
        renamed[key] = tensor
    return renamed


def resnet(block: Any, blocks: tuple[int, ...], **options: Any) -> nn.Module:
    network: nn.Module = DynamicResNet(
        block, blocks, channels=CHANNELS, num_classes=10, family="kernel_warehouse", family_options=options
    )
    return network


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    x = images(3)
    with torch.no_grad():
        want = theirs.eval()(x)
        assert (want[0] - want[1]).abs().max() > 0.01
        torch.testing.assert_close(ours.eval()(x), want, **TOLERANCE["float32 twin"])


def test_keys_are_those_of_the_published_resnet18() -> None:
    model = timm.create_model("kernel_warehouse_resnet18", device="meta")
    keys = published(model.state_dict())
    assert len(keys) == 259
    assert {key for key in keys if key.startswith("layer1.0.conv1.")} == {
        f"layer1.0.conv1.attention.{name}"
        for name in (
            "fc1.weight",
            "fc2.weight",
            "fc2.bias",
            *(f"norm1.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        )
    }
    rows = {"layer1.0.conv1": 513, "layer2.0.conv1": 1026, "layer2.0.downsample.0": 114, "layer2.0.conv2": 432}
    assert {name: len(keys[f"{name}.attention.fc2.bias"]) for name in rows} == rows


@pytest.mark.parametrize("budget", [0.5, 1, 2])
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_published_resnet(block: Any, budget: float, tmp_path: Path) -> None:
    theirs = warmed(resnet(block, (1, 2, 1, 1), budget=budget))
    file = {"model": published(theirs.state_dict()), "epoch": 299, "args": argparse.Namespace(lr=0.004)}
    torch.save(file, tmp_path / "net.pth")
    ours = resnet(block, (1, 2, 1, 1), budget=budget).double()
    report = load_published(ours, tmp_path / "net.pth")
    assert (report.kind, report.layout, report.entry) == ("KernelWarehouse", "ResNet", "model")
    assert all(key.endswith(".temperature") for key in report.kept)
    assert_same(ours, theirs)


@pytest.mark.parametrize("budget", [0.5, 1, 4])
def test_published_mobilenetv2(budget: float) -> None:
    options: dict[str, Any] = {"family": "kernel_warehouse", "family_options": {"budget": budget}, "num_classes": 8}
    theirs = warmed(DynamicMobileNetV2(0.5, **options))
    ours = DynamicMobileNetV2(0.5, **options).double()
    report = load_published(ours, published(theirs.state_dict(), mobilenet=True))
    assert (report.kind, report.network) == ("KernelWarehouse", "mobilenetv2_050")
    assert all(key.endswith(".temperature") for key in report.kept)
    assert_same(ours, theirs)


def test_a_file_of_another_budget_says_which() -> None:
    state = published(resnet(BasicBlock, (1, 1, 1, 1), budget=4).state_dict())
    with refuses(CheckpointError, "budget"):
        load_published(resnet(BasicBlock, (1, 1, 1, 1)), state)


@pytest.mark.parametrize("budget", [1, 3])
def test_static_checkpoint(budget: float) -> None:
    static = warmed(DynamicResNet(BasicBlock, (1, 2, 1, 1), channels=CHANNELS, num_classes=10, family="static"))
    ours = resnet(BasicBlock, (1, 2, 1, 1), budget=budget).double()
    report = load_published(ours, static.state_dict())
    assert report.kind == "static"
    assert len(report.neutral) == 14
    assert_same(ours, static)


def test_a_budget_below_one_cannot_take_a_static_checkpoint() -> None:
    static = DynamicResNet(BasicBlock, (1, 1, 1, 1), channels=CHANNELS, num_classes=10, family="static")
    ours = resnet(BasicBlock, (1, 1, 1, 1), budget=0.5)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with refuses(CheckpointError, "budget"):
        load_published(ours, static.state_dict())
    torch.testing.assert_close(ours.state_dict(), before, rtol=0, atol=0)
