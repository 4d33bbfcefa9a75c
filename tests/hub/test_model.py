"""Folders: what is saved comes back, in dynaconv and in timm, and computes the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open

from dynaconv import convert
from dynaconv.conversion import conversion_of
from dynaconv.errors import CheckpointError, DataError
from dynaconv.hub import DynaconvModel, HubConfig
from dynaconv.train.checkpoint import MODEL_FILE, save_trained
from dynaconv.train.predict import predict
from tests.hub.helpers import CLASSES, MODEL, OPTIONS, dynamic_layers, images, make_run, trained
from tests.messages import refuses
from tests.train.helpers import write_image

pytestmark = pytest.mark.usefixtures("known_costs")


def test_a_run_comes_back_from_its_folder(model: DynaconvModel, saved: Path) -> None:
    again = DynaconvModel.from_pretrained(saved)
    assert {path.name for path in saved.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert again.description == model.description
    assert again.class_names == CLASSES
    assert not again.training
    x = images(1, 20)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    assert dynamic_layers(again)


def test_timm_loads_the_folder(model: DynaconvModel, saved: Path, tmp_path: Path) -> None:
    network = timm.create_model(f"local-dir:{saved}", pretrained=True).eval()
    x = images(1, 20)
    torch.testing.assert_close(network(x), model(x), rtol=0, atol=0)

    # timm prepares images alike, but for the rounding of two ways to resize.
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))
    with Image.open(write_image(tmp_path / "a.png", 90, size=(31, 24), mode="L")) as picture:
        torch.testing.assert_close(transform(picture), model.transform(picture), rtol=0, atol=2 / 255 / 0.4)


def test_timm_adapts_the_folder_to_other_classes(model: DynaconvModel, saved: Path) -> None:
    network = timm.create_model(f"local-dir:{saved}", pretrained=True, num_classes=3).eval()
    x = images(1, 20)
    assert network(x).shape == (3, 3)
    torch.testing.assert_close(network.forward_features(x), model.network.forward_features(x), rtol=0, atol=0)


@pytest.mark.parametrize("style", ["small", "photo"])
def test_an_image_is_prepared_as_in_training(tmp_path: Path, style: str) -> None:
    make_run(tmp_path / "run", style=style, interpolation="random")
    model = DynaconvModel.from_run(tmp_path / "run")
    picture = write_image(tmp_path / "a.png", 90, size=(31, 24))
    metadata = {
        "mean": [0.3],
        "std": [0.4],
        "image_size": 20,
        "in_channels": 1,
        "class_names": list(CLASSES),
        "style": style,
        "crop_pct": 0.875,
        "interpolation": "random",
    }
    expected = predict(model.network, metadata, [picture], top=3)[0].classes
    assert tuple(model.classify(picture, top=3)) == expected
    with Image.open(picture) as opened:
        assert tuple(model.classify(opened, top=3)) == expected
        assert model.transform(opened.convert("L")).shape == (1, 20, 20)


def test_classifying_runs_in_eval_mode_and_leaves_the_network_as_it_is(tmp_path: Path) -> None:
    network = timm.create_model(MODEL, num_classes=5, **OPTIONS).train()  # as timm and a training loop leave it
    network.get_submodule("bn1").eval()  # frozen statistics
    model = DynaconvModel.from_network(network, image_size=20)
    picture = write_image(tmp_path / "a.png", 90, size=(31, 24))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = model.classify(picture)
    assert (network.training, network.get_submodule("bn1").training) == (True, False)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert found == model.eval().classify(picture)


def test_what_is_no_image_is_refused(model: DynaconvModel, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        model.classify(tmp_path / "none.png")
    multispectral = timm.create_model(MODEL, num_classes=5, in_chans=4, **OPTIONS)
    four = DynaconvModel.from_network(multispectral, image_size=20, mean=[0.0] * 4, std=[1.0] * 4)
    with refuses(DataError):
        four.classify(Image.new("RGB", (9, 9)))
    with refuses(TypeError, "image"):
        model.classify(3)


@pytest.mark.parametrize("family", ["dcd", "odconv"])
def test_a_converted_network_comes_back(tmp_path: Path, family: str) -> None:
    static = timm.create_model("test_resnet", num_classes=4, in_chans=3)
    network = trained(convert(static, family, kernel_sizes=3))
    model = DynaconvModel.from_network(network, class_names=["a", "b", "c", "d"], image_size=32)
    model.save_pretrained(tmp_path)
    again = DynaconvModel.from_pretrained(tmp_path)
    x = images(3, 32)
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)
    assert conversion_of(again.network) == conversion_of(network) != {}
    assert len(dynamic_layers(again)) == len(dynamic_layers(network))


def test_a_run_of_a_converted_network_comes_back(tmp_path: Path) -> None:
    network = trained(convert(timm.create_model("test_resnet", num_classes=7, in_chans=1), kernel_sizes=3))
    facts: dict[str, Any] = {
        "model": "test_resnet",
        "num_classes": 7,
        "class_names": list(CLASSES),
        "in_channels": 1,
        "image_size": 20,
    }
    facts |= {"mean": [0.3], "std": [0.4], "conversion": conversion_of(network)}
    save_trained(tmp_path / MODEL_FILE, network, facts)
    model = DynaconvModel.from_run(tmp_path)
    model.save_pretrained(tmp_path / "saved")
    x = images(1, 20)
    torch.testing.assert_close(DynaconvModel.from_pretrained(tmp_path / "saved")(x), network(x), rtol=0, atol=0)


def test_a_dynamic_network_converted_further_comes_back(tmp_path: Path) -> None:
    network = timm.create_model(MODEL, num_classes=4, **OPTIONS)
    further = trained(convert(network, "odconv", kinds="depthwise", position=slice(2), again=True))
    model = DynaconvModel.from_network(further, image_size=20)
    assert model.description.conversion is not None
    assert {entry["family"] for entry in model.description.conversion.values()} == {"odconv"}
    model.save_pretrained(tmp_path)
    x = images(3, 20)
    torch.testing.assert_close(DynaconvModel.from_pretrained(tmp_path)(x), further(x), rtol=0, atol=0)


def test_timm_refuses_a_converted_network(tmp_path: Path) -> None:
    network = convert(timm.create_model("test_resnet", num_classes=4), kernel_sizes=3)
    DynaconvModel.from_network(network, image_size=32).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"test_resnet\+dynaconv"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_a_network_in_memory_says_what_it_is(tmp_path: Path) -> None:
    network = trained(timm.create_model(MODEL, num_classes=5, in_chans=2, pretrained=False, **OPTIONS))
    with refuses(CheckpointError, "mean"):
        DynaconvModel.from_network(network, image_size=20)
    model = DynaconvModel.from_network(network, image_size=20, mean=[0.1, 0.2], std=[0.3, 0.4], license="mit")
    assert model.description.model_options == OPTIONS
    assert model.description.license == "mit"
    assert model.description.conversion is None
    model.save_pretrained(tmp_path)
    again = DynaconvModel.from_pretrained(tmp_path)
    x = images(2, 20)
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)
    assert again.class_names is None


def test_options_that_do_not_rebuild_the_network_are_found() -> None:
    network = trained(timm.create_model(MODEL, num_classes=5, **OPTIONS))
    with refuses(CheckpointError, "dcd_mobilenetv2_035"):
        DynaconvModel.from_network(network, model_options={}, image_size=20)
    with refuses(CheckpointError):
        DynaconvModel.from_network(network, model="dcd_mobilenetv2_050", image_size=20)
    with refuses(CheckpointError, "Linear"):
        DynaconvModel.from_network(torch.nn.Linear(2, 2))
    smooth = timm.create_model("test_resnet", act_layer=torch.nn.SiLU)
    with refuses(CheckpointError, "test_resnet"):
        DynaconvModel.from_network(smooth, image_size=32)
    headless = timm.create_model(MODEL, num_classes=0)
    with refuses(CheckpointError):
        DynaconvModel.from_network(headless)


def test_a_network_changed_since_leaves_the_folder_as_it_was(model: DynaconvModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model.network.bn1.eps = 10.0  # computes something else with the same weights
    with refuses(CheckpointError):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_saving_leaves_the_network_as_it_was(model: DynaconvModel, tmp_path: Path) -> None:
    model.train()
    model.network.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    model.save_pretrained(tmp_path)
    assert [module.training for module in model.modules()] == modes
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)


def test_weights_are_safetensors_that_others_may_read(saved: Path, model: DynaconvModel) -> None:
    with safe_open(saved / "model.safetensors", framework="pt") as opened:
        assert set(opened.keys()) == set(model.network.state_dict())
    fresh = saved.parent / "fresh"
    fresh.touch()
    assert (saved / "model.safetensors").stat().st_mode == fresh.stat().st_mode


def test_a_run_says_nothing_of_the_machine(saved: Path) -> None:
    for name in ("config.json", "README.md"):
        assert "/home" not in (saved / name).read_text()
    written: dict[str, Any] = json.loads((saved / "config.json").read_text())
    assert written["dynaconv"]["training"]["data"] == "pets"
    assert written["dynaconv"]["training"]["settings"] == {
        "batch_size": 64,
        "augment": "auto",
        "optimizer": "SGD(momentum=0.9)",
        "lr": 0.05,
    }


def test_options_that_fetch_weights_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "run", model_options={"stem_stride": 2, "pretrained": False})
    assert DynaconvModel.from_run(tmp_path / "run").description.model_options == OPTIONS


def test_a_checkpoint_by_itself_is_enough(run: Path, tmp_path: Path, model: DynaconvModel) -> None:
    file = tmp_path / "elsewhere.safetensors"
    file.write_bytes((run / "model.safetensors").read_bytes())
    alone = DynaconvModel.from_run(file)
    x = images(1, 20)
    torch.testing.assert_close(alone(x), model(x), rtol=0, atol=0)
    assert isinstance(alone.description, HubConfig)
    assert alone.description.training is not None
    assert "train_images" not in alone.description.training
