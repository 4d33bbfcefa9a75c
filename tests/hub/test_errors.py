"""What is damaged, missing or somebody else's is refused with one sentence."""

import importlib
import json
import shutil
import subprocess
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
from tests.messages import refuses


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved folder, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "pets"))


def _set(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


CHANGES = {
    "foreign": lambda c: c.pop("dynaconv"),
    "newer": _set("dynaconv", "format", value=99),
    "format": _set("dynaconv", "format", value="x"),
    "no name": lambda c: c.pop("architecture"),
    "unknown name": _set("architecture", value="dcd_resnet11"),
    "name is a number": _set("architecture", value=3),
    "other width": _set("architecture", value="dcd_mobilenetv2_050"),
    "classes": _set("num_classes", value=9),
    "no classes": _set("num_classes", value=0),
    "names": _set("label_names", value="abc"),
    "mean": _set("pretrained_cfg", "mean", value=[0.1, 0.2]),
    "mean of words": _set("pretrained_cfg", "mean", value=["a"]),
    "std": _set("pretrained_cfg", "std", value=[0.0]),
    "size": _set("pretrained_cfg", "input_size", value=[1, 20, 24]),
    "channels": _set("model_args", "in_chans", value=3),
    "style": _set("dynaconv", "style", value="large"),
    "checkpoint": _set("model_args", "checkpoint_path", value="/tmp/evil.pth"),
    "pretrained": _set("model_args", "pretrained", value=True),
    "option": _set("model_args", "stem_strides", value=2),
    "conversion": _set("dynaconv", "conversion", value={"no.such": {"family": "dcd", "hyperparameters": {}}}),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_config_that_was_changed_is_refused(folder: Path, case: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    CHANGES[case](config)
    (folder / "config.json").write_text(json.dumps(config))
    with refuses(CheckpointError):
        DynaconvModel.from_pretrained(folder)


def test_a_repositorys_name_is_no_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architecture": "hf-hub:ada/pets"}))
    # The nearest names that it tells are timm's.
    with pytest.raises(CheckpointError, match="hf-hub:ada/pets"):
        DynaconvModel.from_pretrained(folder)


def test_a_config_that_is_no_json_is_refused(folder: Path) -> None:
    for content in ("{", "[]"):
        (folder / "config.json").write_text(content)
        with refuses(CheckpointError, "config.json"):
            DynaconvModel.from_pretrained(folder)
    (folder / "config.json").unlink()
    with refuses(CheckpointError, "config.json"):
        DynaconvModel.from_pretrained(folder)


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    save_file({**state, "classifier.bias": torch.zeros(3)}, file)
    with refuses(CheckpointError, "classifier.bias"):
        DynaconvModel.from_pretrained(folder)
    save_file({**state, "extra": torch.zeros(3)}, file)
    with refuses(CheckpointError, "extra"):
        DynaconvModel.from_pretrained(folder)
    file.write_bytes(file.read_bytes()[:1000])
    with refuses(CheckpointError):
        DynaconvModel.from_pretrained(folder)


def test_a_pickle_is_never_read(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with refuses(CheckpointError, "model.safetensors"):
        DynaconvModel.from_pretrained(folder)
    torch.save(state, folder / "model.safetensors")
    with refuses(CheckpointError):
        DynaconvModel.from_pretrained(folder)


def test_a_path_that_is_no_folder_is_refused(folder: Path, model: DynaconvModel, tmp_path: Path) -> None:
    with refuses(CheckpointError, "save_pretrained"):
        DynaconvModel.from_pretrained(folder / "config.json")
    with refuses(CheckpointError, "/no/such"):
        DynaconvModel.from_pretrained("/no/such")
    for place in (folder / "config.json", folder / "config.json" / "deeper"):
        with refuses(CheckpointError):
            model.save_pretrained(place)
    with refuses(TypeError, "`config`"):
        model.save_pretrained(tmp_path, config={"a": 1})  # type: ignore[arg-type]


def test_a_run_that_is_damaged_is_refused(tmp_path: Path) -> None:
    with refuses(CheckpointError):
        DynaconvModel.from_run(tmp_path / "none")
    run = tmp_path / "run"
    make_run(run)
    (run / "summary.json").write_text("{")
    with refuses(CheckpointError, "summary.json"):
        DynaconvModel.from_run(run)


def test_without_huggingface_hub_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dynaconv.hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refuses(ModuleNotFoundError, "dynaconv[hub]"):
        importlib.import_module("dynaconv.hub")


def test_the_extra_hub_is_enough(saved: Path, tmp_path: Path) -> None:
    packages = ("lightning", "jsonargparse", "torchmetrics", "rich", "matplotlib", "sklearn", "scipy", "fontTools")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({packages}))
from PIL import Image
from dynaconv.hub import DynaconvModel
model = DynaconvModel.from_pretrained({str(saved)!r})
print(len(model.classify(Image.new("L", (9, 9)), top=2)))
model.save_pretrained({str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "2\n", done.stderr
    assert (tmp_path / "README.md").read_text() == (saved / "README.md").read_text()


@pytest.mark.usefixtures("known_costs")
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

    monkeypatch.setattr(Path, "replace", full)
    with refuses(CheckpointError):
        model.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == before.keys()
    assert (folder / file).read_bytes() == before[file]
    assert DynaconvModel.from_pretrained(folder).description == model.description
