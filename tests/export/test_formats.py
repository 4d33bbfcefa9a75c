"""Every family in ONNX Runtime and OpenVINO; every format; models of other shapes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dynaconv.export import ExportReport, export_aoti, export_onnx, export_openvino, export_program, verify
from dynaconv.export.onnx import load_onnx
from dynaconv.export.openvino import convert_onnx_file, load_openvino
from tests.export.networks import CASES, FixedSize, Heads, tiny

pytestmark = pytest.mark.export
Export = Callable[..., ExportReport]


def images(batch: int = 2, height: int = 9, width: int = 8) -> torch.Tensor:
    return torch.rand(batch, 3, height, width)


@pytest.mark.parametrize("case", CASES)
def test_every_family_keeps_its_batch_free(case: str, tmp_path: Path) -> None:
    model, example = tiny(case), images()
    report = export_onnx(model, tmp_path / "net.onnx", example, free_size=False)
    assert report.inputs == {"images": ("batch", 3, 9, 8)}
    convert_onnx_file(tmp_path / "net.onnx", tmp_path / "net.xml")
    for load, file in ((load_onnx, "net.onnx"), (load_openvino, "net.xml")):
        checks = verify(load(tmp_path / file), model, example, runtime=file, batches=(1, 2, 7))
        assert [check.batch for check in checks] == [1, 2, 7]
        assert max(check.difference for check in checks) <= 1e-5


def test_onnx_is_one_file_with_free_named_axes(tmp_path: Path) -> None:
    import onnx

    model = tiny("dcd").train()
    model[3].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = export_onnx(model, tmp_path / "net.onnx", images(batch=1), opset=20)
    assert [module.training for module in model] == [True, True, True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]
    assert report.free_axes == ("batch", "height", "width")
    assert [check.shapes for check in report.checks] == [((1, 3, 9, 8),), ((3, 3, 9, 8),), ((3, 3, 10, 10),)]
    assert report.difference <= 1e-5
    assert report.size == report.path.stat().st_size
    graph = onnx.load(report.path)
    assert graph.opset_import[0].version == 20
    dims = [dim.dim_param or dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]
    assert [dim.dim_param or dim.dim_value for dim in graph.graph.output[0].type.tensor_type.shape.dim] == ["batch", 5]
    text = str(report)
    assert "images (batch, 3, height, width)" in text
    assert "at 3x3x10x10" in text


def test_openvino_writes_graph_and_weights(tmp_path: Path) -> None:
    report = export_openvino(tiny("dcd"), tmp_path / "net.xml", images())
    assert [file.name for file in report.files] == ["net.xml", "net.bin"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    assert report.free_axes == ("batch", "height", "width")
    assert report.to_dict()["difference"] <= 1e-5


def test_a_program_runs_without_dynaconv(tmp_path: Path) -> None:
    report = export_program(tiny("dcd-joint"), tmp_path / "net.pt2", images())
    assert report.free_axes == ("batch", "height", "width")
    code = (
        f"import sys, torch; run = torch.export.load({str(report.path)!r}).module(); "
        "print(tuple(run(torch.rand(1, 3, 12, 7)).shape), 'dynaconv' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "(1, 5) False"


@pytest.mark.slow
def test_machine_code_keeps_its_batch_free(tmp_path: Path) -> None:
    model = tiny("dcd")
    report = export_aoti(model, tmp_path / "net.pt2", images())
    assert report.free_axes == ("batch", "height", "width")
    assert report.difference <= 1e-5


@pytest.mark.parametrize("export", [export_onnx, export_program])
def test_several_inputs_and_outputs_keep_their_names(export: Export, tmp_path: Path) -> None:
    file = tmp_path / ("net.onnx" if export is export_onnx else "net.pt2")
    report = export(Heads(), file, (images(1), images(1, 4, 5)))
    assert report.inputs == {
        "left": ("batch", 3, "height", "width"),
        "right": ("batch", 3, "height", "width"),
    }
    assert report.outputs == ("out", "aux_0", "aux_1")


def test_a_network_for_one_size_keeps_it(tmp_path: Path) -> None:
    report = export_program(FixedSize(), tmp_path / "net.pt2", images(1, 6, 6))
    assert report.free_axes == ("batch",)
    assert report.inputs == {"images": ("batch", 3, 6, 6)}
    assert "height and width are fixed: the network itself cannot be run at 8x10" in report.notes[0]


def test_the_batch_can_be_fixed(tmp_path: Path) -> None:
    report = export_program(nn.Conv2d(3, 4, 1), tmp_path / "net.pt2", images(1), batch=5, free_size=False)
    assert report.free_axes == ()
    assert report.inputs == {"images": (5, 3, 9, 8)}
    assert report.batches == (5,)
