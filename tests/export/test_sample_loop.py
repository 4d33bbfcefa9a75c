"""A dynamic network is written as the network of one sample, in a loop over the batch."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dynaconv import DYConv2d, export_onnx, export_openvino
from dynaconv.errors import ExportError
from dynaconv.export import ExportReport, export_program, verify
from dynaconv.export.onnx import load_onnx
from dynaconv.export.openvino import load_openvino
from tests.export.networks import sample_graph, tiny
from tests.messages import refuses

pytestmark = pytest.mark.export
Export = Callable[..., ExportReport]
IMAGES = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
GEOMETRIES = {
    "1x1": {"kernel_size": 1},
    "dense": {"kernel_size": (3, 5), "stride": 2, "padding": (1, 2), "dilation": (2, 1)},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 6},
    "grouped": {"kernel_size": 3, "padding": "same", "groups": 2},
}


def operators(file: Path) -> Counter[str]:
    import onnx

    return Counter(node.op_type for node in onnx.load(file).graph.node)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_mixture_is_one_convolution(geometry: str, bias: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = DYConv2d(6, 6, **GEOMETRIES[geometry], bias=bias)
    with torch.no_grad():
        layer.branch.heads["attention"].weight.normal_()
    network = nn.Sequential(layer, nn.ReLU6()).eval()
    example = torch.randn(1, 6, 13, 12)
    report = export_onnx(network, tmp_path / "net.onnx", example, free_size=False)
    checks = verify(load_onnx(report.path), network, example, runtime="ONNX Runtime", batches=(1, 2, 7))
    assert max(check.difference for check in checks) <= 1e-5
    body = sample_graph(report.path)
    (conv,) = [node for node in body.node if node.op_type == "Conv"]
    assert conv.input[1] not in {tensor.name for tensor in body.initializer}
    assert len(conv.input) == 2 + bias
    assert not {node.op_type for node in body.node} & {"Add", "Transpose", "Slice", "Gather"}


@pytest.mark.parametrize(("export", "name"), [(export_onnx, "net.onnx"), (export_openvino, "net.xml")])
def test_a_fixed_batch(export: Export, name: str, tmp_path: Path) -> None:
    model = tiny("dyconv")
    for batch in (1, 4):
        report = export(model, tmp_path / f"{batch}{name}", IMAGES, batch=batch, free_size=False)
        assert report.inputs == {"images": (batch, 3, 9, 8)}
        assert (report.free_axes, report.batches) == ((), (batch,))
        assert report.difference <= 1e-5
        assert any("in a loop" in note for note in report.notes) == (batch > 1)


def test_one_sample_needs_no_loop(tmp_path: Path) -> None:
    report = export_onnx(tiny("dyconv"), tmp_path / "net.onnx", IMAGES, batch=1)
    assert operators(report.path)["Scan"] == 0
    assert operators(report.path)["Conv"] == 2


@pytest.mark.parametrize(
    ("load", "export", "name"),
    [
        (load_onnx, export_onnx, "net.onnx"),
        (load_openvino, export_openvino, "net.xml"),
    ],
)
def test_several_inputs_and_outputs(load: Callable[[Path], object], export: Export, name: str, tmp_path: Path) -> None:
    model = TwoInputs().eval()
    inputs = (IMAGES, torch.rand(2, 5))
    report = export(model, tmp_path / name, inputs)
    assert report.inputs == {"images": ("batch", 3, "height", "width"), "style": ("batch", 5)}
    assert report.outputs == ("map", "vector")
    checks = verify(load(report.path), model, inputs, runtime=name, batches=(1, 2, 7))
    assert max(check.difference for check in checks) <= 1e-5


def test_a_network_that_mixes_samples_is_written_as_a_whole(tmp_path: Path) -> None:
    model = nn.Sequential(tiny("dyconv"), PlusMean())
    report = export_onnx(model, tmp_path / "net.onnx", IMAGES, free_size=False)
    assert report.free_axes == ("batch",)
    assert operators(report.path)["Scan"] == 0
    assert report.difference <= 1e-5


def test_a_network_with_one_output_for_all_samples_is_written_as_a_whole(tmp_path: Path) -> None:
    report = export_onnx(nn.Sequential(tiny("dyconv"), Total()), tmp_path / "net.onnx", IMAGES, free_size=False)
    assert operators(report.path)["Scan"] == 0


def test_a_static_network_has_no_loop(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert operators(export_onnx(model, tmp_path / "net.onnx", IMAGES).path) == {"Conv": 1, "Relu": 1}


def test_without_rewriting_there_is_no_loop(tmp_path: Path) -> None:
    report = export_onnx(tiny("dyconv"), tmp_path / "net.onnx", IMAGES, free_size=False, rewrite=False)
    assert operators(report.path)["Scan"] == 0
    assert report.free_axes == ("batch",)


def test_a_program_of_one_sample_has_no_sum_over_taps(tmp_path: Path) -> None:
    report = export_program(tiny("dyconv"), tmp_path / "net.pt2", IMAGES, batch=1, free_size=False)
    program = torch.export.load(report.path)
    targets = Counter(str(node.target) for node in program.graph.nodes)
    assert targets["aten.conv2d.default"] == 2


@pytest.mark.parametrize("batch", [0, True, 1.0], ids=repr)
def test_a_wrong_batch_is_refused(batch: object, tmp_path: Path) -> None:
    with refuses(ExportError, "batch", value=repr(batch)):
        export_onnx(tiny("dyconv"), tmp_path / "net.onnx", IMAGES, batch=batch)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


class TwoInputs(nn.Module):
    """A dynamic layer between two inputs and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = DYConv2d(3, 4, 3, padding=1)
        self.linear = nn.Linear(5, 4)

    def forward(self, images: Tensor, style: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` and ``(B, 5)``."""
        features = self.conv(images) * self.linear(style)[:, :, None, None]
        return {"map": features, "vector": features.mean((2, 3))}


class PlusMean(nn.Module):
    """Adds the mean over the batch; a difference from it would magnify the rounding."""

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        return x + x.mean(0, keepdim=True)


class Total(nn.Module):
    """Sums over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N)`` to ``(N,)``."""
        return x.sum(0)
