"""``dynaconv convert`` as it is typed, and what goes on from its file."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from dynaconv.cli import main
from dynaconv.errors import CheckpointError
from dynaconv.train.checkpoint import load_trained
from dynaconv.train.config import load_recipe
from dynaconv.train.initial_weights import start_from
from dynaconv.train.run import fit
from tests.helpers import TOLERANCE
from tests.messages import refuses

NAME = "resnet10t"
FEW = ["--option", "num_classes=4", "--option", "in_chans=1"]


@pytest.fixture
def static(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(timm.create_model(NAME, num_classes=4, in_chans=1).state_dict(), tmp_path / "static.pth")
    return tmp_path / "static.pth"


def test_plan_alone_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["convert", NAME, "--family", "odconv", "--last", "2", "--family-option", "num_kernels=1"]) == 0
    out = capsys.readouterr().out
    assert "odconv, num_kernels=1: 2 of 14 convolutions become dynamic" in out
    assert "million multiply-adds at 3x176x176" in out
    assert list(tmp_path.iterdir()) == []


def test_a_block_reads_one_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dynamic.safetensors"
    assert (
        main(["convert", NAME, "--family", "se", "--context", "block", "--include", "layer4.*", "-o", str(file)]) == 0
    )
    assert "(context of layer4.0.conv1)" in capsys.readouterr().out
    options = {name: entry["hyperparameters"] for name, entry in load_trained(file)[1]["conversion"].items()}
    assert {each["shared_context"] for each in options.values()} == {"layer4.0.conv1"}


def test_file_holds_the_network(static: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dynamic.safetensors"
    command = ["convert", NAME, *FEW, "--weights", str(static), "--include", "layer4.*", "-o", str(file)]
    assert main(command) == 0
    assert "3 of 14 convolutions become dynamic" in capsys.readouterr().out
    model, metadata = load_trained(file)
    assert metadata["conversion"].keys() == {f"layer4.0.{name}" for name in ("conv1", "conv2", "downsample.1")}
    twin = timm.create_model(NAME, num_classes=4, in_chans=1).eval()
    twin.load_state_dict(torch.load(static, weights_only=True))
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(model(x), twin(x), **TOLERANCE["float32 twin"])
    assert main(command) == 2
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["profile", str(file), "--size", "1x32x32"]) == 0
    assert f"ratio to {NAME}" in capsys.readouterr().out


def test_training_goes_on_from_it(static: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dynamic.safetensors"
    assert main(["convert", NAME, *FEW, "--weights", str(static), "-o", str(file)]) == 0
    options = [f"--model.name={NAME}", f"--model.weights={file}", "--trainer.max_epochs=1"]
    options += ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    result = fit(load_recipe("digits"), out=tmp_path / "run", overrides=options)
    model, metadata = load_trained(tmp_path / "run")
    assert metadata["num_classes"] == 10
    assert metadata["conversion"] == load_trained(file)[1]["conversion"]
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(model(x), result.model(x), rtol=0, atol=0)
    best, _ = load_trained(tmp_path / "run" / "checkpoints" / "best.ckpt")
    torch.testing.assert_close(best(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--include", "fc"], "include='fc' matches 'fc', a Linear"),
        (["--include", "layer7.*"], "no module matches include='layer7.*'"),
        (["--context", "block", "--include", "layer4.0.conv1"], "context='block' has no effect"),
        (["--context", "network"], "--context must be block; got 'network'"),
        (["--kinds", "depthwise"], "there is nothing to convert to dcd"),
        (["--family", "dxd"], "the nearest is 'dcd'"),
        (["--family-option", "latent=3"], "DCDConv2d has no hyperparameter 'latent'"),
        (["--family-option", "latent_dim"], "--family-option takes KEY=VALUE"),
        (["--first", "0"], "--first must be an integer from 1 to"),
        (["--first", "1", "--last", "1"], "not allowed with argument --first"),
        (["-o", "net.pt"], "is written as .safetensors"),
        (["-o", "nowhere/net.safetensors"], "there is no folder nowhere"),
        (["--weights", "nothing.pth"], "nothing.pth"),
        (["--pretrained", "--weights", "x"], "not allowed with argument"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", NAME, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_network(static: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", NAME, "--weights", str(static)]) == 2
    assert "does not fit the network" in capsys.readouterr().err


def test_weights_that_cannot_be_downloaded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    monkeypatch.setattr("timm.create_model", create_model)
    assert main(["convert", "resnet18", "--pretrained"]) == 2
    error = capsys.readouterr().err
    assert "cannot load timm's weights of resnet18; start from a file of weights" in error
    assert error.count("\n") == 1


def test_start_that_does_not_fit(static: Path, tmp_path: Path) -> None:
    file = tmp_path / "dynamic.safetensors"
    assert main(["convert", NAME, *FEW, "--weights", str(static), "-o", str(file)]) == 0
    with refuses(CheckpointError):
        start_from(str(file), name=NAME, num_classes=4, in_channels=3)
    with refuses(CheckpointError):
        start_from(str(file), name=NAME, num_classes=4, in_channels=1, options={"drop_rate": 0.1})
    with refuses(CheckpointError, "resnet10t"):
        start_from(str(file), name="resnet18", num_classes=4, in_channels=1)
    assert json.dumps(start_from(str(file), name=NAME, num_classes=4, in_channels=1)[1])


@pytest.mark.parametrize("classes", [4, 10])
def test_training_starts_from_a_state_dict(static: Path, classes: int) -> None:
    """The twin's weights are those of a file of ``torch.save``, but for a classifier of another size."""
    model, structure = start_from(str(static), name=NAME, num_classes=classes, in_channels=1)
    given, own = torch.load(static, weights_only=True), model.state_dict()
    assert structure == {"model_options": {}}
    assert len(own["fc.weight"]) == classes
    kept = [key for key in given if classes == 4 or not key.startswith("fc.")]
    assert all(torch.equal(own[key], given[key]) for key in kept)


def test_a_state_dict_of_another_network_is_refused(static: Path) -> None:
    with refuses(CheckpointError, "does not fit resnet18"):
        start_from(str(static), name="resnet18", num_classes=4, in_channels=1)
