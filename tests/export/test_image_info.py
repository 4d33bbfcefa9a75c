"""Class names and normalisation in exported files, and files that take pixels."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dynaconv.errors import ExportError
from dynaconv.export import ExportReport, ImageInfo, export_onnx, export_openvino, quantize_onnx
from dynaconv.export.image_info import KEYS, PREFIX
from dynaconv.export.onnx import load_onnx
from dynaconv.export.openvino import load_openvino
from dynaconv.native import extension
from tests.export.networks import tiny
from tests.messages import refuses

pytestmark = pytest.mark.export
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INFO = ImageInfo(mean=MEAN, std=STD, class_names=("tench & <eel>", 'Ärmelkanal, "wide"', "c"), crop_mode="squash")


def entries(file: Path) -> dict[str, str]:
    """What a file says of itself."""
    if file.suffix == ".xml":
        import openvino

        model = openvino.Core().read_model(file)
        paths = {key: [PREFIX, key] for key in KEYS}
        return {key: model.get_rt_info(path).value for key, path in paths.items() if model.has_rt_info(path)}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(extension("onnxruntime")))
    found = onnxruntime.InferenceSession(file, options).get_modelmeta().custom_metadata_map
    return {key.removeprefix("dynaconv."): value for key, value in found.items() if key.startswith("dynaconv.")}


def run(report: ExportReport, pixels: torch.Tensor) -> torch.Tensor:
    load = load_openvino if report.path.suffix == ".xml" else partial(load_onnx, library=extension("onnxruntime"))
    return torch.as_tensor(load(report.path)(pixels)[0])


def pixels_and_normalised(batch: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.randint(256, (batch, height, width, 3), dtype=torch.uint8)
    normalised = (pixels.movedim(-1, 1) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return pixels, normalised


@pytest.mark.parametrize(
    "options", [{}, {"batch": 1}, {"rewrite": False}, {"native": True}, {"half": True}], ids=lambda given: str(given)
)
def test_a_file_takes_the_pixels_of_a_decoder(options: dict[str, Any], tmp_path: Path) -> None:
    model = tiny("dcd").eval()
    example = torch.randn(1, 3, 9, 8)
    report = export_onnx(model, tmp_path / "net.onnx", example, info=INFO, preprocessing=True, **options)
    batch = options.get("batch", "batch")
    assert report.inputs == {"images": (batch, "height", "width", 3)}
    assert report.checks[0].shapes == ((1, 9, 8, 3),)
    assert "uint8 pixels (B, H, W, C)" in report.notes[0]
    found = entries(report.path)
    assert found["input"] == "uint8 BHWC"
    assert not {"mean", "std"} & found.keys()
    pixels, normalised = pixels_and_normalised(options.get("batch", 2), 11, 12)
    with torch.no_grad():
        want = model(normalised)
    limit = 1e-2 if "half" in options else 1e-4
    assert float((run(report, pixels) - want).abs().max() / want.abs().max()) < limit


def test_openvino_takes_pixels_too(tmp_path: Path) -> None:
    model = tiny("dcd").eval()
    report = export_openvino(model, tmp_path / "net.xml", torch.randn(1, 3, 9, 8), info=INFO, preprocessing=True)
    assert entries(report.path)["class_names"].split("\n") == list(INFO.class_names or ())
    pixels, normalised = pixels_and_normalised(2, 11, 12)
    with torch.no_grad():
        torch.testing.assert_close(run(report, pixels), model(normalised), rtol=1e-4, atol=1e-4)


def test_a_file_says_how_to_normalise_and_what_its_classes_are_called(tmp_path: Path) -> None:
    report = export_onnx(tiny("se").eval(), tmp_path / "net.onnx", torch.randn(1, 3, 9, 8), info=INFO)
    assert entries(report.path) == {
        "input": "float32 BCHW",
        "colors": "RGB",
        "image_size": "9,8",
        "mean": "0.485,0.456,0.406",
        "std": "0.229,0.224,0.225",
        "crop_mode": "squash",
        "class_names": 'tench & <eel>\nÄrmelkanal, "wide"\nc',
    }


def test_coefficients_keep_their_names_beside_pixels(tmp_path: Path) -> None:
    model = tiny("dcd").eval()
    plain, pixels = (
        export_onnx(
            model,
            tmp_path / f"{given}.onnx",
            torch.randn(1, 3, 9, 8),
            coefficients=True,
            info=INFO,
            preprocessing=given,
        )
        for given in (False, True)
    )
    assert plain.outputs == pixels.outputs
    assert len(plain.outputs) > 1


def test_a_description_is_read_from_a_run_and_from_timm() -> None:
    facts = {"mean": [0.5], "std": [0.25], "class_names": ["a", "b"], "image_size": 28, "style": "small"}
    assert ImageInfo.of(facts) == ImageInfo(
        mean=(0.5,),
        std=(0.25,),
        class_names=("a", "b"),
        image_size=(28, 28),
        crop_mode="squash",
        crop_pct=1.0,
        interpolation="bilinear",
    )
    timm = {"mean": MEAN, "std": STD, "input_size": (3, 224, 192), "crop_pct": 0.875, "interpolation": "bicubic"}
    assert ImageInfo.of(timm).image_size == (224, 192)
    assert ImageInfo.of(timm).crop_pct == 0.875
    with refuses(ExportError, "mean", "std"):
        ImageInfo.of({"class_names": ["a"]})


def test_what_cannot_be_described_is_refused(tmp_path: Path) -> None:
    for mean, std in (((), ()), ((0.5,), (0.2, 0.2))):
        with refuses(ExportError, "mean", "std"):
            ImageInfo(mean=mean, std=std)
    with refuses(ExportError, "std"):
        ImageInfo(mean=(0.5,), std=(0.0,))
    with refuses(ExportError, "class name"):
        ImageInfo(mean=(0.5,), std=(1.0,), class_names=("a\nb",))
    with refuses(ExportError, "class_names", "'cat'"):
        ImageInfo(mean=(0.5,), std=(1.0,), class_names="cat")  # type: ignore[arg-type]
    model, example, file = tiny("se").eval(), torch.randn(1, 3, 9, 8), tmp_path / "net.onnx"
    with refuses(ExportError, "preprocessing", "info"):
        export_onnx(model, file, example, preprocessing=True)
    with refuses(ExportError, "info"):
        export_onnx(model, file, example, info=ImageInfo(mean=(0.5,), std=(1.0,)))
    assert not list(tmp_path.iterdir())


def test_a_file_that_takes_pixels_is_not_quantised(tmp_path: Path) -> None:
    model, example = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(),
        torch.randn(1, 3, 9, 8),
    )
    file = export_onnx(model, tmp_path / "net.onnx", example, info=INFO, preprocessing=True).path
    images = [torch.randn(4, 3, 9, 8)]
    with refuses(ExportError, "preprocessing"):
        quantize_onnx(file, tmp_path / "int8.onnx", images)
    with refuses(ExportError, "info"):
        quantize_onnx(file, tmp_path / "int8.onnx", images, info=INFO)
    quantize_onnx(model, tmp_path / "int8.onnx", images, info=INFO)
    assert entries(tmp_path / "int8.onnx")["mean"] == "0.485,0.456,0.406"
