"""One image read: upright, in 8 bits, whatever it was saved as, and the same wherever images are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from dynaconv.errors import DataError
from dynaconv.hub.config import HubConfig
from dynaconv.hub.images import prepare_image
from dynaconv.train.data.image_file import Mode, convert_image, open_image
from dynaconv.train.data.module import ImageDataModule
from dynaconv.train.data.pack import pack_folder
from tests.messages import refuses
from tests.train.helpers import write_folder

RAMP = np.linspace(0, 255, 24).astype(np.uint8).reshape(4, 6)
# How each orientation is stored: what has to be done to the upright pixels.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def write_turned(path: Path, orientation: int, image: Image.Image) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.transpose(STORED[orientation]).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_photograph_is_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    image = Image.fromarray(RAMP).resize((48, 32)).convert("RGB")
    path = write_turned(tmp_path / f"x.{suffix}", orientation, image)
    opened = np.asarray(open_image(path, "RGB")).astype(int)
    assert opened.shape == (32, 48, 3)
    assert np.abs(opened - np.asarray(image)).max() <= (0 if suffix in ("png", "tif") else 30)
    assert np.abs(opened - np.asarray(image)).mean() < 4


@pytest.mark.parametrize(
    "raw", [b"Exif\x00\x00rubbish", b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01\x03\x00"]
)
def test_damaged_exif_data_do_not_spoil_an_image(tmp_path: Path, raw: bytes) -> None:
    Image.fromarray(RAMP).save(tmp_path / "x.png", exif=raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        assert np.array_equal(np.asarray(open_image(tmp_path / "x.png", "L")), RAMP)


def folder_of_turned(root: Path) -> Path:
    """Twelve images a class, each stored in its own orientation; the same pixels in all of a class."""
    for split in ("train", "validation"):
        for name, image in (("left", RAMP), ("right", RAMP[:, ::-1])):
            (root / split / name).mkdir(parents=True)
            for orientation in STORED:
                write_turned(root / split / name / f"{orientation}.png", orientation, Image.fromarray(image))
    return root


def hub_config() -> HubConfig:
    return HubConfig(
        model="test_resnet",
        model_options={},
        num_classes=2,
        in_channels=1,
        class_names=None,
        image_size=8,
        mean=(0.5,),
        std=(0.5,),
        style="small",
        crop_pct=1.0,
        crop_mode="center",
        interpolation="bilinear",
    )


# timm's reader leaves the files that it opens to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
def test_images_are_the_same_wherever_they_are_read(tmp_path: Path) -> None:
    folder = folder_of_turned(tmp_path / "images")
    pack_folder(folder, tmp_path / "shards", shard_images=3)
    options: dict[str, Any] = {"channels": 1, "image_size": 8, "num_workers": 0, "val_fraction": 0, "batch_size": 14}
    modules = [
        ImageDataModule(str(folder), **options),
        ImageDataModule(f"wds/{tmp_path / 'shards'}", **options),
        ImageDataModule("torch/image_folder", data_dir=str(folder), **options),
        ImageDataModule(f"hfds/{folder}", data_dir=str(tmp_path / "cache"), **options),
    ]
    want = torch.stack([prepare_image(hub_config(), Image.fromarray(RAMP[:, ::step]))[0] for step in (1, -1)])
    mean, std = modules[0].mean[0], modules[0].std[0]
    for module in modules:
        images, targets = next(iter(module.test_dataloader()))
        assert targets.bincount().tolist() == [7, 7]
        torch.testing.assert_close(images * std + mean, want[targets] * 0.5 + 0.5)
    for path in sorted((folder / "train" / "right").iterdir()):
        with Image.open(path) as opened:
            for image in (path, opened):
                torch.testing.assert_close(prepare_image(hub_config(), image)[0], want[1])
            assert opened.getexif()[ExifTags.Base.Orientation] == int(path.stem)


def _modes() -> list[str]:
    plain = ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "PA", "La", "RGBa"]
    return [*plain, "I", "I;16", "I;16L", "I;16B", "I;16N"]


@pytest.mark.parametrize("to", ["L", "RGB"])
@pytest.mark.parametrize("mode", _modes())
def test_every_mode_of_pillow_is_converted(mode: str, to: Mode) -> None:
    converted = convert_image(Image.new(mode, (3, 2)), to)
    assert (converted.mode, converted.size) == (to, (3, 2))


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_what_has_no_conversion_is_told(mode: str) -> None:
    with refuses(DataError):
        convert_image(Image.new(mode, (3, 2)), "RGB")


@pytest.mark.parametrize(
    ("name", "values", "want"),
    [
        ("8 bits.png", RAMP, RAMP),
        ("16 bits.png", RAMP.astype(np.uint16) * 257, RAMP),
        ("16 bits, dark.png", RAMP.astype(np.uint16), RAMP * 0),
        ("16 bits.tif", RAMP.astype(np.uint16) * 257, RAMP),
        ("16 bits, dark.pgm", RAMP.astype(np.uint16), RAMP * 0),
        ("32 bits of 8.tif", RAMP.astype(np.int32), RAMP),
        ("32 bits of 16.tif", RAMP.astype(np.int32) * 257, RAMP),
        ("two values.png", RAMP > 99, (RAMP > 99) * 255),
    ],
)
def test_grey_values_keep_the_range_of_their_file(
    tmp_path: Path, name: str, values: np.ndarray[Any, Any], want: np.ndarray[Any, Any]
) -> None:
    Image.fromarray(values).save(tmp_path / name)
    assert np.array_equal(np.asarray(open_image(tmp_path / name, "L")), want)
    assert np.array_equal(np.asarray(open_image(tmp_path / name, "RGB")), np.stack([want] * 3, -1))


def test_a_transparent_grey_value_of_16_bits_becomes_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 514]], dtype=np.uint16)).save(tmp_path / "x.png", transparency=0)
    assert np.asarray(open_image(tmp_path / "x.png", "L")).tolist() == [[255, 2]]


def test_print_colours_are_those_of_the_image(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), (200, 60, 20))
    image.convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    assert np.abs(np.asarray(open_image(tmp_path / "x.jpg", "RGB")).astype(int) - np.asarray(image)).max() <= 3


def test_an_image_that_may_not_be_opened_is_not_called_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path)

    def refuse(self: Path, mode: str) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with refuses(DataError, "0.png"):
        open_image(folder / "train" / "dark" / "0.png", "RGB")
