"""The form in which a runtime gets 1x1 DCD layers: what the layer computes, in fewer operators."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import DCDConv2d, deploy, export_onnx
from dynaconv.deployment.deploy import deployed_layers
from dynaconv.export import verify
from dynaconv.export._dcd_form import RuntimeDCD, in_runtime_form
from dynaconv.export.openvino import convert_onnx_file, load_openvino
from dynaconv.families.dcd.deployed import DeployedDCDConv
from tests.export.networks import sample_graph

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "no-bias": {"bias": False},
    "residual": {"variant": "residual"},
    "two-by-two": {"context_size": 2},
    "sigmoid": {"scale_activation": "sigmoid"},
    "bare": {"context_norm": None, "hidden_norm": None, "gain": 2.0},
    "smooth": {"activation": "silu", "gain": 0.5},
    "relu6": {"activation": "relu6"},
    "batch-norms": {"norm": "batch"},
    "batch-norms-tanh": {"norm": "batch", "scale_activation": "tanh"},
}
# The forms that sizes lead to: the whole kernel from one map, or put together; [P Phi, b] from one map, or [Phi, 1].
SIZES = {"kernel": (12, 20), "narrowing": (20, 12), "product": (160, 240), "expand": (384, 64), "mixed": (384, 400)}


def layer(in_channels: int, out_channels: int, **options: Any) -> DCDConv2d:
    """A layer far from its start, with batch norms that have seen some images."""
    made = DCDConv2d(in_channels, out_channels, 1, **({} if options else {"scale_activation": "linear"}), **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        made.train()(torch.randn(16, in_channels, 3, 3))
    return made.eval().requires_grad_(False)


def images(channels: int) -> Tensor:
    return torch.randn(3, channels, 5, 4) * torch.rand(3, channels, 1, 1) + torch.randn(3, channels, 1, 1)


def difference(form: nn.Module, reference: nn.Module, x: Tensor) -> float:
    want = reference.double()(x.double())
    return float((form(x).double() - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_form_computes_what_the_layer_does(sizes: tuple[int, int], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = layer(*sizes, **options)
    form = RuntimeDCD(made.deployed())
    assert difference(form, made, images(sizes[0])) < 2e-6


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_norm_folded_by_deploy_is_kept(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(20)
    norm.weight.data.uniform_(0.5, 2)
    norm.bias.data.normal_()
    network = deploy(nn.Sequential(layer(12, 20, **options), norm.eval()), (1, 12, 5, 4))
    form = in_runtime_form(network)
    assert isinstance(form.get_submodule("0"), RuntimeDCD)
    assert isinstance(network[0], DeployedDCDConv)
    assert difference(form, deploy(network), images(12)) < 2e-6


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("sizes", [SIZES["kernel"], SIZES["narrowing"]], ids=["widening", "narrowing"])
def test_the_int8_form_computes_the_layer(sizes: tuple[int, int], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = layer(*sizes, **options)
    form = RuntimeDCD(made.deployed(), int8=True)
    assert (form.form in ("kernel", "product")) == (sizes[1] > sizes[0])
    assert difference(form, made, images(sizes[0])) < 2e-6


def test_sizes_decide_the_form() -> None:
    forms = [RuntimeDCD(layer(*sizes).deployed()) for sizes in SIZES.values()]
    assert [form.form for form in forms] == ["kernel", "kernel", "product", "expand", "mixed"]
    curved = layer(12, 20, scale_activation="sigmoid").deployed()
    assert RuntimeDCD(curved).form == "product"
    scaled = layer(384, 400, norm="batch", scale_activation="tanh").deployed()
    assert RuntimeDCD(scaled).form == "factors"


def test_a_layer_under_two_names_stays_one() -> None:
    made = layer(8, 8)
    form = in_runtime_form(deployed_layers(nn.Sequential(made, nn.ReLU(), made)))
    assert form.get_submodule("0") is form.get_submodule("2")


def test_what_cannot_be_rewritten_stays() -> None:
    hooked, chosen = layer(8, 8), layer(8, 8)
    hooked.register_forward_hook(lambda *_: None)
    chosen.algorithm = "kernel"
    network = nn.Sequential(
        hooked, chosen, DCDConv2d(8, 8, 1, stride=2), DCDConv2d(8, 8, 3), DCDConv2d(8, 8, 1, blocks=2)
    )
    network = deployed_layers(network.eval())
    assert in_runtime_form(network) is network


class Inverted(nn.Module):
    """A residual block as in MobileNetV2; its middle map feeds a convolution."""

    def __init__(self, channels: int, middle: int, activation: nn.Module, **options: Any) -> None:
        super().__init__()
        self.expand, self.project = layer(channels, middle, **options), layer(middle, channels, **options)
        self.depthwise = nn.Conv2d(middle, middle, 3, padding=1, groups=middle)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        return x + self.project(self.activation(self.depthwise(self.activation(self.expand(x)))))


BLOCKS: dict[str, tuple[int, int, nn.Module, dict[str, Any]]] = {
    "kernel": (16, 48, nn.ReLU6(), {}),
    "relu": (16, 48, nn.ReLU(), {}),
    "product": (96, 576, nn.ReLU6(), {}),
    "mixed": (160, 480, nn.ReLU6(), {}),
    "two-by-two": (16, 48, nn.ReLU6(), {"context_size": 2}),
    "batch-norms": (16, 48, nn.ReLU6(), {"norm": "batch"}),
    "sigmoid": (16, 48, nn.ReLU6(), {"scale_activation": "sigmoid"}),
}


@pytest.mark.export
@pytest.mark.parametrize("free_size", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_are_convolutions_without_transposes(case: str, free_size: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    channels, middle, activation, options = BLOCKS[case]
    network = Inverted(channels, middle, activation, **options)
    report = export_onnx(network, tmp_path / "net.onnx", torch.randn(1, channels, 8, 6) * 3, free_size=free_size)
    assert report.difference <= 2e-5
    ops = Counter(node.op_type for node in sample_graph(report.path).node)
    assert ops["Conv"] >= 3
    assert ops["Transpose"] == 0
    convert_onnx_file(report.path, tmp_path / "net.xml")
    checks = verify(
        load_openvino(tmp_path / "net.xml"), network.eval(), torch.randn(1, channels, 8, 6), runtime="OpenVINO"
    )
    assert max(check.difference for check in checks) <= 2e-5
