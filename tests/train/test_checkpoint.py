"""Trained networks on disk, and predictions and tests from them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from dynaconv.errors import CheckpointError, DataError, RunError
from dynaconv.train.checkpoint import load_trained, save_trained
from dynaconv.train.checkpoint_evaluation import evaluate_checkpoint
from dynaconv.train.factory import create_network
from dynaconv.train.predict import predict
from tests.messages import refuses
from tests.train.helpers import TINY_MODEL, write_folder, write_image

METADATA: dict[str, Any] = {
    "model": TINY_MODEL,
    "model_options": {"drop_rate": 0.1},
    "num_classes": 2,
    "class_names": ["dark", "light"],
    "in_channels": 3,
    "image_size": 32,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "style": "small",
}


def saved(path: Path, **changes: Any) -> tuple[Path, torch.nn.Module]:
    metadata = {**METADATA, **changes}
    model = create_network(
        TINY_MODEL, num_classes=len(metadata["class_names"]), in_channels=metadata["in_channels"]
    ).eval()
    save_trained(path, model, metadata)
    return path, model


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path, model = saved(tmp_path / "model.safetensors")
    for given in (path, tmp_path):
        loaded, metadata = load_trained(given)
        assert metadata == METADATA
        assert not loaded.training
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path / "model.safetensors")
    with refuses(CheckpointError, "test_resnet"):
        load_trained(path, model="resnet10t")
    lying, _ = saved(tmp_path / "lying.safetensors", model="test_efficientnet")
    with refuses(CheckpointError, "test_efficientnet"):
        load_trained(lying)
    unknown, _ = saved(tmp_path / "unknown.safetensors", model="dcd_mobilenetv3_050")
    with refuses(CheckpointError):
        load_trained(unknown)


@pytest.mark.parametrize("name", ["model.safetensors", "last.ckpt"])
@pytest.mark.parametrize("keep", [0, 5, 2000])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, name: str, keep: int) -> None:
    path = tmp_path / name
    if path.suffix == ".ckpt":
        torch.save({"state_dict": {"w": torch.zeros(5000)}, "dynaconv": METADATA}, path)
    else:
        saved(path)
    path.write_bytes(path.read_bytes()[:keep])
    with refuses(CheckpointError, str(path)):
        load_trained(path)


def test_files_that_others_wrote_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with refuses(CheckpointError):
        load_trained(tmp_path / "foreign.safetensors")
    save_file({"w": torch.zeros(2)}, tmp_path / "odd.safetensors", metadata={"dynaconv": json.dumps({"model": "x"})})
    with refuses(CheckpointError, "num_classes"):
        load_trained(tmp_path / "odd.safetensors")
    torch.save({"w": torch.zeros(2)}, tmp_path / "foreign.ckpt")
    with refuses(CheckpointError):
        load_trained(tmp_path / "foreign.ckpt")


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    torch.save({"dynaconv": METADATA, "state_dict": {}, "path": Path("x")}, tmp_path / "sly.ckpt")
    with refuses(CheckpointError):
        load_trained(tmp_path / "sly.ckpt")


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with refuses(CheckpointError, "nowhere"):
        load_trained(tmp_path / "nowhere")
    with refuses(CheckpointError, "model.safetensors"):
        load_trained(tmp_path)


def test_a_file_that_cannot_be_written_whole_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = saved(tmp_path / "model.safetensors")
    before = path.read_bytes()

    for kind in (OSError, SafetensorError):

        def fail(state: Any, file: Path, metadata: Any, kind: type[Exception] = kind) -> None:
            Path(file).write_bytes(b"half")
            raise kind("I/O error: no space left")

        monkeypatch.setattr("dynaconv.train.checkpoint.save_file", fail)
        with refuses(CheckpointError, "model.safetensors"):
            saved(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_weights_can_be_read_by_whom_other_files_can(tmp_path: Path) -> None:
    path, _ = saved(tmp_path / "model.safetensors")
    (tmp_path / "ordinary").touch()
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("name", ["x.png", "config.yaml"])
def test_a_file_of_another_kind_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("seed: 0")
    with refuses(CheckpointError):
        load_trained(tmp_path / name)


def test_class_names_that_do_not_match_the_outputs_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors", num_classes=3)[0]
    with refuses(CheckpointError, "class_names"):
        load_trained(path)


def test_a_folder_that_was_moved_is_asked_for_and_split_as_before(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", ("",), images=10)
    data = {"name": str(folder), "test_fraction": 0.3, "split_seed": 4}
    model, metadata = load_trained(saved(tmp_path / "m.safetensors", data=data)[0])
    assert evaluate_checkpoint(model, metadata, num_workers=0).images == 6
    folder.rename(tmp_path / "moved")
    with refuses(RunError, "--data"):
        evaluate_checkpoint(model, metadata, num_workers=0)
    assert evaluate_checkpoint(model, metadata, data=str(tmp_path / "moved"), num_workers=0).images == 6


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_any_image_is_converted_to_what_the_network_takes(tmp_path: Path, channels: int, mode: str) -> None:
    path, _ = saved(tmp_path / "m.safetensors", in_channels=channels, mean=[0.5] * channels, std=[0.25] * channels)
    model, metadata = load_trained(path)
    image = write_image(tmp_path / "image.png", 90, mode=mode)
    (prediction,) = predict(model, metadata, [image])
    assert {name for name, _ in prediction.classes} == {"dark", "light"}
    assert sum(probability for _, probability in prediction.classes) == pytest.approx(1, abs=1e-5)
    assert prediction.classes[0][1] >= prediction.classes[1][1]


@pytest.mark.parametrize("style", ["small", "photo"])
def test_predictions_see_what_evaluation_saw(tmp_path: Path, style: str) -> None:
    extra = {"style": style, "crop_pct": 0.9, "interpolation": "bilinear"}
    data = {"name": str(write_folder(tmp_path / "images")), "num_workers": 0}
    path, _ = saved(tmp_path / "m.safetensors", data=data, **extra)
    model, metadata = load_trained(path)
    result = evaluate_checkpoint(model, metadata, num_workers=0)
    files = sorted((tmp_path / "images" / "test").rglob("*.png"))
    predictions = predict(model, metadata, files)
    right = sum(p.image.parent.name == p.classes[0][0] for p in predictions)
    assert result.images == 12
    assert result.accuracy == pytest.approx(right / 12)
    assert result.top5 == 1.0


def test_predictions_keep_the_order_and_the_number_asked_for(tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(7)]
    model, metadata = load_trained(saved(tmp_path / "m.safetensors", num_classes=7, class_names=names)[0])
    files = [write_image(tmp_path / f"{index}.png", index) for index in range(3)]
    assert [p.image for p in predict(model, metadata, files[::-1])] == files[::-1]
    assert [len(p.classes) for p in predict(model, metadata, files, top=3)] == [3, 3, 3]
    assert len(predict(model, metadata, files, top=99)[0].classes) == 7
    with refuses(DataError):
        predict(model, metadata, [tmp_path / "none.png"])


def test_data_with_other_classes_is_refused(tmp_path: Path) -> None:
    model, metadata = load_trained(saved(tmp_path / "m.safetensors")[0])
    folder = write_folder(tmp_path / "images")
    with refuses(RunError, "--data"):
        evaluate_checkpoint(model, metadata)
    assert evaluate_checkpoint(model, metadata, data=str(folder), num_workers=0).images == 12
    for split in ("train", "test"):
        (folder / split / "light").rename(folder / split / "sunny")
    with refuses(DataError, "sunny"):
        evaluate_checkpoint(model, metadata, data=str(folder))
    write_image(folder / "train" / "third" / "0.png", 5)
    with refuses(DataError):
        evaluate_checkpoint(model, metadata, data=str(folder))
    with refuses(DataError):
        evaluate_checkpoint(model, metadata, data="digits")
