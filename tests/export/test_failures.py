"""What an export refuses: nothing is left behind, and the message says what to do."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dynaconv.errors import ExportError
from dynaconv.export import aot, export_aoti, export_onnx, export_openvino, export_program, openvino, program
from dynaconv.export.capture import Capture
from dynaconv.export.pipeline import Format, export_as
from dynaconv.export.verify import LIMITS
from tests.export.networks import Branches, FixedSize, padded_as_tensorflow
from tests.messages import refuses

pytestmark = pytest.mark.export
EXAMPLE = torch.rand(2, 3, 6, 6)


def test_the_layer_that_cannot_be_recorded_is_named(tmp_path: Path) -> None:
    model = Branches()
    for free_size in ("auto", False):
        with refuses(ExportError, "choice.1"):
            export_program(model, tmp_path / "net.pt2", EXAMPLE, free_size=free_size)
    assert not any(tmp_path.iterdir())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_free_size_is_demanded_in_vain(tmp_path: Path) -> None:
    with refuses(ExportError):
        export_program(FixedSize(), tmp_path / "net.pt2", EXAMPLE, free_size=True)


def test_a_size_whose_formula_would_grow_without_end_stays_fixed(tmp_path: Path) -> None:
    model, example = padded_as_tensorflow(strides=4), torch.rand(2, 3, 32, 32)
    report = export_program(model, tmp_path / "net.pt2", example)
    assert report.free_axes == ("batch",)
    assert "height and width are fixed: at '3' (Conv2dSame) the size of the feature maps" in report.notes[0]
    with refuses(ExportError, "'3'"):
        export_program(model, tmp_path / "other.pt2", example, free_size=True)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_wrong_result_is_refused_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    right = onnxruntime.InferenceSession.run

    def wrong(self: Any, *args: Any) -> list[np.ndarray]:
        outputs = right(self, *args)
        outputs[0].reshape(-1)[-1] += 2e-4 * np.abs(outputs[0]).max()
        return outputs

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", wrong)
    old = tmp_path / "net.onnx"
    old.write_text("old")
    with refuses(ExportError):
        export_onnx(nn.Conv2d(3, 4, 1), old, EXAMPLE, free_size=False, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]
    assert old.read_text() == "old"


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    for export, name in ((export_onnx, "a.onnx"), (export_openvino, "a.xml"), (export_program, "a.pt2")):
        (tmp_path / name).write_text("old")
        with refuses(ExportError, "overwrite=True"):
            export(nn.Conv2d(3, 4, 1), tmp_path / name, EXAMPLE)
        assert (tmp_path / name).read_text() == "old"


def test_a_missing_package_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with refuses(ExportError, "dynaconv[export]"):
        export_onnx(nn.Conv2d(3, 4, 1), tmp_path / "missing" / "a.onnx", EXAMPLE)


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with refuses(ExportError):
        export_aoti(nn.Conv2d(3, 4, 1), tmp_path / "a.pt2", EXAMPLE)


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (nn.Conv2d(3, 4, 1).half(), EXAMPLE.half()),
        (nn.Conv2d(3, 4, 1, device="meta"), EXAMPLE),
        (nn.Conv2d(4, 4, 1), EXAMPLE),
        (nn.Conv2d(3, 4, 1), "picture.png"),
    ],
    ids=["float16", "meta device", "channels", "a path"],
)
def test_unfit_models_and_examples_are_refused(tmp_path: Path, model: nn.Module, example: Any) -> None:
    with refuses(ExportError):
        export_program(model, tmp_path / "a.pt2", example, free_size=False)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [17, "18"])
def test_old_operator_sets_are_refused(tmp_path: Path, opset: Any) -> None:
    with refuses(ExportError, "opset"):
        export_onnx(nn.Conv2d(3, 4, 1), tmp_path / "a.onnx", EXAMPLE, opset=opset)


def test_options_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with refuses(ExportError, "free_size"):
        export_program(nn.Conv2d(3, 4, 1), tmp_path / "a.pt2", EXAMPLE, free_size="no")  # type: ignore[arg-type]


def test_an_operator_that_the_format_lacks_is_named_with_its_layer(tmp_path: Path) -> None:
    class Determinant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvalsh(x @ x.mT)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Determinant())
    with refuses(ExportError, "'1'"):
        export_onnx(model, tmp_path / "a.onnx", EXAMPLE, free_size=False)
    assert not any(tmp_path.iterdir())


def test_a_format_that_cannot_take_a_free_size_falls_back(tmp_path: Path) -> None:
    """A format of one's own, which refuses symbolic sizes and leaves a file half written."""

    def write(recorded: Capture, file: Path) -> None:
        file.write_text("half")
        if "height" in recorded.free_axes:
            raise RuntimeError("symbolic height")
        torch.export.save(recorded.program, file)

    form = Format(
        name="own",
        runtime="own runtime",
        suffixes=(".pt2",),
        write=write,
        load=lambda file: torch.export.load(file).module(),
    )
    report = export_as(form, nn.Conv2d(3, 4, 1), tmp_path / "a.pt2", EXAMPLE)
    assert report.free_axes == ("batch",)
    assert "height and width are fixed" in report.notes[0]
    assert "symbolic height" in report.notes[0]
    assert LIMITS["float32"] == report.limit == 1e-4


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's writer of files would end the process, and OpenVINO's does not tell why it fails."""
    full = tmp_path / "net.pt2"
    full.symlink_to("/dev/full")
    monkeypatch.setattr(
        torch._inductor, "aoti_compile_and_package", lambda _, package_path: package_path.write(b"code")
    )
    captured: Any = SimpleNamespace(program=torch.export.export(nn.ReLU(), (EXAMPLE,)))
    for write in (aot._write, program._write):
        with pytest.raises(OSError, match="No space left on device"):
            write(captured, full)

    def save_model(*_: Any, **__: Any) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr("openvino.save_model", save_model)
    with pytest.raises(RuntimeError, match="iostream"):
        openvino.save(None, tmp_path / "net.xml")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="No space left on device"):
        openvino.save(None, tmp_path / "net.xml")
