"""The form in which a runtime gets 1x1 DCD layers: what the layer computes, in fewer operators."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynaconv import DCDConv2d, deploy, export_onnx, export_openvino
from dynaconv.deployment.deploy import deployed_layers
from dynaconv.export._dcd_form import RuntimeDCD, in_runtime_form
from dynaconv.families.dcd.deployed import DeployedDCDConv
from tests.export.networks import tiny

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


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_form_computes_what_the_layer_does(
    sizes: tuple[int, int], options: dict[str, Any], channels_last: bool
) -> None:
    torch.manual_seed(0)
    made = layer(*sizes, **options)
    form = RuntimeDCD(made.deployed(), channels_last=channels_last)
    assert difference(form, made, images(sizes[0])) < 2e-6


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_norm_folded_by_deploy_is_kept(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(20)
    norm.weight.data.uniform_(0.5, 2)
    norm.bias.data.normal_()
    network = deploy(nn.Sequential(layer(12, 20, **options), norm.eval()), (1, 12, 5, 4))
    for channels_last in (False, True):
        form = in_runtime_form(network, channels_last=channels_last)
        assert isinstance(form.get_submodule("0"), RuntimeDCD)
        assert isinstance(network[0], DeployedDCDConv)
        assert difference(form, deploy(network), images(12)) < 2e-6


def test_sizes_decide_the_form() -> None:
    forms = [RuntimeDCD(layer(*sizes).deployed(), channels_last=False) for sizes in SIZES.values()]
    assert [form.form for form in forms] == ["kernel", "kernel", "product", "expand", "mixed"]
    curved = layer(12, 20, scale_activation="sigmoid").deployed()
    assert RuntimeDCD(curved, channels_last=False).form == "product"
    scaled = layer(384, 400, norm="batch", scale_activation="tanh").deployed()
    assert RuntimeDCD(scaled, channels_last=False).form == "factors"


def test_a_layer_under_two_names_stays_one() -> None:
    made = layer(8, 8)
    form = in_runtime_form(deployed_layers(nn.Sequential(made, nn.ReLU(), made)), channels_last=False)
    assert form.get_submodule("0") is form.get_submodule("2")


def test_what_cannot_be_rewritten_stays() -> None:
    hooked, chosen = layer(8, 8), layer(8, 8)
    hooked.register_forward_hook(lambda *_: None)
    chosen.algorithm = "kernel"
    network = nn.Sequential(
        hooked, chosen, DCDConv2d(8, 8, 1, stride=2), DCDConv2d(8, 8, 3), DCDConv2d(8, 8, 1, blocks=2)
    )
    network = deployed_layers(network.eval())
    assert in_runtime_form(network, channels_last=False) is network


@pytest.mark.export
def test_fewer_operators_are_written(tmp_path: Path) -> None:
    import onnx

    model, example = tiny("dcd"), torch.rand(2, 3, 9, 8)
    counts = []
    for rewrite in (False, True):
        file = export_onnx(model, tmp_path / f"{rewrite}.onnx", example, free_size=False, rewrite=rewrite).path
        counts.append(Counter(node.op_type for node in onnx.load(file).graph.node))
    assert counts[1].total() <= counts[0].total() - 8
    assert counts[1]["LpNormalization"] == 1


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
    "no-block-of-channels": (10, 20, nn.ReLU6(), {}),
    "product": (96, 576, nn.ReLU6(), {}),
    "mixed": (160, 480, nn.ReLU6(), {}),
    "two-by-two": (16, 48, nn.ReLU6(), {"context_size": 2}),
    "batch-norms": (16, 48, nn.ReLU6(), {"norm": "batch"}),
    "sigmoid": (16, 48, nn.ReLU6(), {"scale_activation": "sigmoid"}),
}


@pytest.mark.export
@pytest.mark.parametrize("free_size", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_keep_their_function_in_both_runtimes(case: str, free_size: bool, tmp_path: Path) -> None:
    import onnx

    torch.manual_seed(0)
    channels, middle, activation, options = BLOCKS[case]
    network = nn.Sequential(*(Inverted(channels, middle, activation, **options) for _ in range(2)))
    example = torch.randn(1, channels, 8, 6) * 3
    for path in (tmp_path / "net.onnx", tmp_path / "net.xml"):
        if path.suffix == ".onnx":
            report = export_onnx(network, path, example, free_size=free_size)
        elif not free_size:
            report = export_openvino(network, path, example, free_size=False)
        assert report.difference <= 2e-5
        assert report.batches == (1, 3)
    ones = [
        node
        for node in onnx.load(tmp_path / "net.onnx").graph.node
        if node.op_type == "Conv" and node.input[1].endswith("_ones")
    ]
    assert len(ones) == (2 if case in ("kernel", "relu", "product", "two-by-two", "sigmoid") else 0)


@pytest.mark.export
def test_pixels_get_two_axes_only_for_what_needs_them(tmp_path: Path) -> None:
    import onnx

    torch.manual_seed(0)
    network = nn.Sequential(layer(16, 16), *(Inverted(16, 48, nn.ReLU6()) for _ in range(2)))
    file = export_onnx(network, tmp_path / "net.onnx", torch.randn(1, 16, 8, 6), free_size=False).path
    ops = Counter(node.op_type for node in onnx.load(file).graph.node)
    # One for the matrix of each of five layers, for the input, before and behind each depthwise convolution, and for
    # the output.
    assert ops["Reshape"] == 5 + 1 + 2 * 2 + 1
    assert ops["Add"] == 1 + 2 + 2


@pytest.mark.export
@pytest.mark.parametrize("size", [(8, 8), (384, 64)], ids=["kernel", "expand"])
def test_a_map_is_pooled_in_the_layout_it_has(size: tuple[int, int], tmp_path: Path) -> None:
    import onnx

    network, example = nn.Sequential(layer(*size), nn.AdaptiveAvgPool2d(1)), torch.rand(2, size[0], 9, 8)
    file = export_onnx(network, tmp_path / "net.onnx", example, free_size=False).path
    ops = Counter(node.op_type for node in onnx.load(file).graph.node)
    # Beside the pooling of the network there is that of a branch whose features feed a convolution.
    assert (ops["GlobalAveragePool"], ops["ReduceMean"]) == ((2, 0) if size == (384, 64) else (1, 1))
    assert export_openvino(network, tmp_path / "net.xml", example, free_size=False).difference <= 1e-5
