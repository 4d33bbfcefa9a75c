"""Files in half precision: every family in float16, I/O in float32, OpenVINO in the precision that it chooses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dynaconv import convert, deploy
from dynaconv.errors import ExportError
from dynaconv.export import export_onnx, export_openvino, verify
from dynaconv.export.verify import LIMITS
from dynaconv.testing import TOLERANCE
from tests.export.networks import Heads, sample_graph, tiny
from tests.messages import refuses

pytestmark = pytest.mark.export
EXAMPLE = torch.rand(2, 3, 9, 8)


def _constants(graph: Any) -> set[tuple[str, int]]:
    """The operators of a graph with a constant, each with the constant's type."""
    types = {each.name: each.data_type for each in graph.initializer}
    return {(node.op_type, types[name]) for node in graph.node for name in node.input if name in types}


@pytest.mark.parametrize("case", ["dcd", "dcd-joint", "odconv", "dyconv"])
def test_features_are_float16_and_branches_float32(case: str, tmp_path: Path) -> None:
    import onnx

    report = export_onnx(tiny(case), tmp_path / "net.onnx", EXAMPLE, half=True, free_size=False)
    assert report.limit == LIMITS["float16"]
    # Rounding to 11 bits is visible, and no more than that.
    assert 1e-5 < report.difference < 2e-3
    (images,) = onnx.load(report.path).graph.input
    assert images.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    found = _constants(sample_graph(report.path))
    float32, float16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    assert ("Conv", float16) in found
    assert ("Conv", float32) not in found
    assert found & {("Gemm", float32), ("MatMul", float32)}


@pytest.mark.parametrize("family", ["dcd", "dyconv", "odconv", "kernel_warehouse", "fdconv"])
def test_a_file_has_half_the_size(family: str, tmp_path: Path) -> None:
    """Kernels from which float32 branches form W(x) are stored in float16 too."""
    network = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 192, 1), nn.ReLU(), nn.Conv2d(192, 64, 3))
    dynamic = deploy(convert(network, family).eval())
    whole = export_onnx(dynamic, tmp_path / "whole.onnx", EXAMPLE, free_size=False).path.stat().st_size
    report = export_onnx(dynamic, tmp_path / "half.onnx", EXAMPLE, half=True, free_size=False)
    assert report.path.stat().st_size < 0.6 * whole
    assert b"site-packages" not in report.path.read_bytes()


def test_openvino_stores_half_the_weights_and_is_checked_as_it_runs(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.AdaptiveAvgPool2d(1))
    whole = export_openvino(network, tmp_path / "whole.xml", EXAMPLE)
    half = export_openvino(network, tmp_path / "half.xml", EXAMPLE, half=True)
    assert half.files[1].stat().st_size < 0.55 * whole.files[1].stat().st_size
    assert half.limit == LIMITS["bfloat16" if half.runtime.endswith("in bfloat16") else "float16"]


def test_a_half_precision_network_with_several_inputs_keeps_its_names(tmp_path: Path) -> None:
    network, inputs = Heads().to(torch.bfloat16), (EXAMPLE.half(), EXAMPLE.half())
    report = export_onnx(network, tmp_path / "net.onnx", inputs, half=True, free_size=False)
    assert list(report.inputs) == ["left", "right"]
    assert report.outputs == ("out", "aux_0", "aux_1")
    with refuses(ExportError, "half"):
        export_onnx(network, tmp_path / "other.onnx", inputs)


def test_native_kernels_in_half_precision_are_refused(tmp_path: Path) -> None:
    for export, name in ((export_onnx, "net.onnx"), (export_openvino, "net.xml")):
        with refuses(ExportError, "half"):
            export(tiny("dcd"), tmp_path / name, EXAMPLE, half=True, native=True)


def test_forms_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    with refuses(ExportError, "rewrite"):
        export_onnx(tiny("dcd"), tmp_path / "net.onnx", EXAMPLE, rewrite="fp8")  # type: ignore[arg-type]
    with refuses(ExportError, "rewrite"):
        export_openvino(tiny("dcd"), tmp_path / "net.xml", EXAMPLE, rewrite="int8", half=True)


def test_the_limit_of_a_half_precision_is_its_tolerance() -> None:
    for precision in ("float16", "bfloat16"):
        assert LIMITS[precision] == TOLERANCE[precision]["rtol"]


def test_a_difference_that_half_precision_does_not_explain_is_refused() -> None:
    network = nn.Conv2d(3, 4, 1)
    with refuses(ExportError):
        verify(lambda x: network(x) * 1.02, network, EXAMPLE, runtime="runtime", precision="float16")
    (check, _) = verify(lambda x: network(x) * 1.005, network, EXAMPLE, runtime="runtime", precision="float16")
    assert check.difference == pytest.approx(5e-3, rel=0.01)
