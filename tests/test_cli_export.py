"""``dynaconv export``: its flags, one file a format, and one sentence for every mistake."""

import json
import sys
from pathlib import Path

import pytest

from dynaconv.cli import main
from dynaconv.commands import export
from dynaconv.export.onnx import FILE_PRECISIONS
from tests.export.test_image_info import entries
from tests.test_cli import TINY, refused

NET = ["dcd_mobilenetv2_035", "--option", "num_classes=3", "--size", "3x32x32"]


def test_a_named_network_is_written_here_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["export", "static_resnet10", "--size", "1x16x16", "--option", "num_classes=3", "--format", "pt2"]
    assert main([*argv, "--fixed-size"]) == 0
    printed = capsys.readouterr().out
    assert "static_resnet10 has random weights" in printed
    assert "torch.export program: static_resnet10.pt2" in printed
    assert [file.name for file in tmp_path.iterdir()] == ["static_resnet10.pt2"]
    assert "static_resnet10.pt2 exists; pass --overwrite" in refused(capsys, *argv)
    assert main([*argv, "--fixed-size", "--fixed-batch", "--overwrite"]) == 0
    assert "free     nothing" in capsys.readouterr().out


@pytest.mark.export
@pytest.mark.parametrize(
    ("form", "suffix"), [("onnx", ".onnx"), pytest.param("openvino", ".xml", marks=pytest.mark.slow)]
)
def test_onnx_and_openvino(form: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"net{suffix}"
    argv = ["export", "se_resnet10", "--size", "3x16x16", "--option", "num_classes=3", "--format", form, "-o", str(out)]
    assert main([*argv, "--fixed-size", "--preprocessing"]) == 0
    printed = capsys.readouterr().out
    assert "free     batch" in printed
    assert "images (batch, 16, 16, 3)" in printed
    assert entries(out) == {
        "input": "uint8 BHWC",
        "colors": "RGB",
        "image_size": "16,16",
        "crop_mode": "center",
        "crop_pct": "0.875",
        "interpolation": "bilinear",
    }
    assert out.stat().st_size > 1000
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "the following arguments are required: CHECKPOINT, --format"),
        (
            [*NET, "--format", "coreml"],
            "--format must be onnx, openvino, pt2, aoti, executorch or litert; got 'coreml'",
        ),
        ([*NET, "--format", "onnx", "-o", "net.pt2"], "onnx files end in .onnx; got net.pt2"),
        ([*NET, "--format", "onnx", "-o", "/nowhere/net.onnx"], "there is no folder /nowhere"),
        ([*NET, "--format", "onnx", "-o", "."], "it is a folder; name a file"),
        ([*NET, "--format", "onnx", "--max-batch", "4"], "--max-batch belongs to executorch; onnx does not have it"),
        ([*NET, "--format", "pt2", "--native"], "--native belongs to onnx and openvino; pt2 does not have it"),
        ([*NET, "--format", "onnx", "--precision", "bf16"], "--precision goes with --native"),
        ([*NET, "--format", "pt2", "--precision", "bf16"], "--precision belongs to onnx and openvino; pt2 does not"),
        (
            [NET[0], "--format", "onnx", "--native", "--int8"],
            "pass --native --precision int8.",
        ),
        ([NET[0], "--format", "onnx", "--preprocessing", "--int8"], "--preprocessing does not go with --int8"),
        ([*NET, "--format", "pt2", "--preprocessing"], "--preprocessing belongs to onnx and openvino; pt2 does not"),
        ([*NET[:-1], "1x32x32", "--format", "onnx", "--preprocessing"], "dcd_mobilenetv2_035 has none for 1 channels"),
        ([*NET, "--format", "pt2", "--batches", "4"], "--batches belongs to litert; pt2 does not have it"),
        ([*NET, "--format", "litert", "--fixed-size"], "--fixed-size belongs to onnx, openvino, pt2 and aoti"),
        ([*NET, "--format", "executorch", "--max-batch", "0"], "--max-batch must be an integer from 1 to"),
        ([*NET, "--format", "litert", "--batches", "1", "0"], "--batches must be an integer from 1 to"),
        ([*NET, "--format", "pt2", "--int8"], "--int8 has the formats onnx and openvino; pt2 does not have it"),
        ([*NET, "--format", "onnx", "--int8"], "--size does not go with --int8"),
        ([NET[0], "--format", "onnx", "--int8", "--images", "0"], "--images must be an integer from 1 to"),
        ([NET[0], "--format", "onnx", "--int8"], "dcd_mobilenetv2_035 is not trained; give a trained run"),
        ([*NET, "--format", "onnx", "--data", "digits"], "--data goes with --int8."),
        (["dcd_resnet10", "--size", "3x3", "--format", "onnx"], "--size must be CHANNELSxHEIGHTxWIDTH or SIDE"),
        (["dcd_resnet81", "--format", "onnx"], "the nearest names are 'dcd_resnet"),
        (["runs/none", "--format", "onnx"], "there is no checkpoint runs/none"),
        ([*NET, "--format", "onnx", "--bogus"], "unknown option --bogus"),
    ],
)
def test_a_mistake_is_one_sentence(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, "export", *argv)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "package", "extra"),
    [
        ("onnx", "onnxscript", "export"),
        ("executorch", "executorch", "executorch"),
        ("litert", "litert_torch", "litert"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    form: str,
    package: str,
    extra: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    sentence = refused(capsys, "export", "static_resnet10", "--size", "1x16x16", "--format", form)
    assert f'pip install "dynaconv[{extra}]"' in sentence
    assert not any(tmp_path.iterdir())


def test_a_file_in_the_way_and_the_weights_beside_it_are_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "net.bin").write_text("mine")
    argv = ["export", "static_resnet10", "--format", "openvino", "-o", str(tmp_path / "net.xml")]
    assert "net.bin exists; pass --overwrite" in refused(capsys, *argv)
    assert (tmp_path / "net.bin").read_text() == "mine"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    # OpenVINO does not run test_resnet's pooling on so small an image.
    network = ["--model=se_resnet10", '--model.model_options={"stem_stride": 1}']
    given = [word for word in TINY if not word.startswith("--model")]
    assert main(["train", "--config", "digits", *network, *given, "--out", str(folder)]) == 0
    return folder


@pytest.mark.export
@pytest.mark.parametrize(
    ("form", "suffix"), [("onnx", ".onnx"), pytest.param("openvino", ".xml", marks=pytest.mark.slow)]
)
def test_int8_of_a_run_tells_the_accuracy_before_and_after(
    form: str, suffix: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == "openvino":
        pytest.importorskip("nncf")
    out = tmp_path / f"net{suffix}"
    argv = ["export", str(run_folder), "--format", form, "--int8", "--images", "32", "-o", str(out)]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    before = json.loads((run_folder / "summary.json").read_text())["test_accuracy"]
    assert f"accuracy  {100 * before:.2f} % ->" in printed
    assert "32 calibration images" in printed
    assert out.is_file()
    assert "--overwrite" in refused(capsys, *argv)
    found = entries(out)
    assert found["class_names"].split("\n") == [str(digit) for digit in range(10)]
    assert found["crop_mode"] == "squash"


def test_a_run_takes_images_of_its_own_channels(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", str(run_folder), "--format", "pt2", "-o", str(tmp_path / "net.pt2"), "--size", "3x16x16"]
    assert "takes images of 1 channel, not 3." in refused(capsys, *argv)


def test_the_precisions_are_those_of_files() -> None:
    assert export._PRECISIONS == FILE_PRECISIONS
