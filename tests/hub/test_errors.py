"""What is damaged, missing or somebody else's is refused with one sentence."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynaconv.errors import CheckpointError
from dynaconv.hub import DynaconvModel
from tests.hub.helpers import make_run


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved folder, to be damaged."""
    copy = tmp_path / "pets"
    copy.mkdir()
    for path in saved.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def _set(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


CHANGES = {
    "foreign": (lambda c: c.pop("dynaconv"), r"was not written by dynaconv: it has no entry 'dynaconv'"),
    "newer": (_set("dynaconv", "format", value=99), r"was written by dynaconv \S+, which is newer than"),
    "format": (_set("dynaconv", "format", value="x"), "there is 'x' where a whole number has to be"),
    "no name": (lambda c: c.pop("architecture"), r"does not say its 'architecture'"),
    "unknown name": (
        _set("architecture", value="dcd_resnet11"),
        r"unknown model 'dcd_resnet11'; the nearest names are",
    ),
    "name of a repository": (_set("architecture", value="hf-hub:ada/pets"), "unknown model 'hf-hub:ada/pets'"),
    "name is a number": (_set("architecture", value=3), "its 'architecture' is 3"),
    "other width": (
        _set("architecture", value="dcd_mobilenetv2_050"),
        r"does not fit the network: \d+ tensors differ, the first is 'blocks",
    ),
    "classes": (_set("num_classes", value=9), "there are 7 class names for 9 classes"),
    "no classes": (_set("num_classes", value=0), "at least 1 class, channel and pixel; got num_classes=0"),
    "names": (_set("label_names", value="abc"), "its 'label_names' is 'abc'"),
    "mean": (_set("pretrained_cfg", "mean", value=[0.1, 0.2]), "'mean' has 2 values for 1 channels"),
    "mean of words": (_set("pretrained_cfg", "mean", value=["a"]), r"its 'mean' is \['a'\]"),
    "std": (_set("pretrained_cfg", "std", value=[0.0]), r"'std' is positive; got \[0\.0\]"),
    "size": (
        _set("pretrained_cfg", "input_size", value=[1, 20, 24]),
        "the input is 20 x 24 pixels; it has to be square",
    ),
    "channels": (_set("model_args", "in_chans", value=3), "'in_chans' of 'model_args' is not the 1 channels"),
    "style": (_set("dynaconv", "style", value="large"), "'style' is 'small' or 'photo'; got 'large'"),
    "checkpoint": (_set("model_args", "checkpoint_path", value="/tmp/evil.pth"), "do not include 'checkpoint_path'"),
    "pretrained": (_set("model_args", "pretrained", value=True), "do not include 'pretrained'"),
    "option": (_set("model_args", "stem_strides", value=2), "cannot build dcd_mobilenetv2_035 with model_options"),
    "conversion": (
        _set("dynaconv", "conversion", value={"no.such": {"family": "dcd", "hyperparameters": {}}}),
        r"record of the conversion does not fit this network at 'no\.such'",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_config_that_was_changed_is_refused(folder: Path, case: str) -> None:
    change, message = CHANGES[case]
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        DynaconvModel.from_pretrained(folder)


def test_a_config_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        DynaconvModel.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no config\.json; save_pretrained writes one"):
        DynaconvModel.from_pretrained(folder)


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    save_file({**state, "classifier.bias": torch.zeros(3)}, file)
    with pytest.raises(
        CheckpointError, match=r"1 tensors differ, the first is 'classifier\.bias' \(weights: \(3,\), network: \(7,\)\)"
    ):
        DynaconvModel.from_pretrained(folder)
    save_file({**state, "extra": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match=r"'extra' \(weights: \(3,\), network: nothing\)"):
        DynaconvModel.from_pretrained(folder)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is damaged, incomplete or no safetensors file"):
        DynaconvModel.from_pretrained(folder)


def test_a_pickle_is_never_read(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors; dynaconv reads weights from safetensors"):
        DynaconvModel.from_pretrained(folder)
    torch.save(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        DynaconvModel.from_pretrained(folder)


def test_a_path_that_is_no_folder_is_refused(folder: Path, model: DynaconvModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a file; give the folder that save_pretrained wrote"):
        DynaconvModel.from_pretrained(folder / "config.json")
    with pytest.raises(CheckpointError, match="there is no folder /no/such"):
        DynaconvModel.from_pretrained("/no/such")
    for place in (folder / "config.json", folder / "config.json" / "deeper"):
        with pytest.raises(CheckpointError, match="is a file or lies in one; give a folder"):
            model.save_pretrained(place)
    with pytest.raises(TypeError, match="`config` cannot be given"):
        model.save_pretrained(tmp_path, config={"a": 1})  # type: ignore[arg-type]


def test_a_run_that_is_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        DynaconvModel.from_run(tmp_path / "none")
    run = tmp_path / "run"
    make_run(run)
    (run / "summary.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"summary\.json cannot be read"):
        DynaconvModel.from_run(run)


def test_without_huggingface_hub_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dynaconv.hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r'needs huggingface_hub, .* pip install "dynaconv\[hub\]"'):
        importlib.import_module("dynaconv.hub")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "README.md"])
def test_a_folder_that_cannot_be_written_anew_stays_whole(
    model: DynaconvModel, folder: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == file:
            raise OSError(28, "No space left on device", str(self))
        return replace(self, target)

    monkeypatch.setattr("dynaconv.hub.card.measure_costs", lambda *_: [])
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*: No space left on device\.$"):
        model.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == before.keys()
    assert (folder / file).read_bytes() == before[file]
    assert DynaconvModel.from_pretrained(folder).description == model.description
