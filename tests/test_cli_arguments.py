"""The convention of docs/command-line.md, over every command and every argument of its parser."""

import argparse
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dynaconv import convert
from dynaconv.cli import main
from dynaconv.commands import export
from dynaconv.conversion import conversion_of
from dynaconv.train.checkpoint import save_trained
from dynaconv.train.config import TrainConfig, resolve
from dynaconv.train.factory import create_network
from dynaconv.train.run import RunResult
from tests.study.helpers import write_static_run, write_study
from tests.test_cli import parsers
from tests.train.helpers import DIGITS, write_folder, write_image

PARSERS = parsers()
Base = dict[str, list[str]]
"""Words of a valid command, by the destination of their argument."""

WRONG = ("", "x", "-1", "0", "3.5", "nan", "inf", "1e400", "9" * 20, "9" * 5000)


@pytest.mark.parametrize("command", PARSERS)
def test_the_same_argument_has_the_same_name(command: str) -> None:
    actions = {action.dest: action for action in PARSERS[command]._actions}
    outputs = PARSERS[command].get_default("outputs")
    for dest, action in actions.items():
        assert dest not in ("model", "run", "batch", "output", "force"), "see docs/command-line.md"
        if dest in ("checkpoint", "checkpoints"):
            assert (action.metavar, action.option_strings) == ("CHECKPOINT", [])
            assert action is next(each for each in actions.values() if not each.option_strings)
        if dest == "out":
            assert action.option_strings == ["-o", "--out"]
        if dest in ("out", "json", "csv"):
            # The folder of a training is never replaced; `train` checks it in its first process alone.
            assert outputs.get(dest) == (action.metavar if command != "train" else None)
            assert ("overwrite" in actions) == (command not in ("demo", "train"))
        if dest in ("size", "batch_size"):
            assert action.type is not None


def loaded(*argv: str) -> set[str]:
    """The modules that are imported after a command in a fresh interpreter."""
    code = (
        "import sys\nfrom dynaconv.cli import main\n"
        f"try:\n    main({list(argv)!r})\nexcept SystemExit:\n    pass\nprint('modules', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("\nmodules ")[2].split())


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        *([command, "--help"] for command in PARSERS),
        ["study", "--list-studies"],
        ["train", "--list-recipes"],
    ],
    ids=" ".join,
)
def test_help_and_lists_import_nothing_heavy(argv: list[str]) -> None:
    found = loaded(*argv)
    assert "dynaconv.cli" in found
    assert not found & {"torch", "timm", "lightning", "torchvision", "numpy", "jsonargparse", "rich", "matplotlib"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = convert(create_network("test_resnet", num_classes=10, in_channels=1), "dcd")
    file = tmp_path_factory.mktemp("network") / "model.safetensors"
    save_trained(file, model, {"model": "test_resnet", **DIGITS, "conversion": conversion_of(model)})
    return str(file)


def checked_only(config: TrainConfig, *, overrides: Sequence[str], **_: Any) -> RunResult:
    """Check a configuration as `fit` does, in place of a training."""
    resolve(config, overrides)
    weights = {"epoch": 1, "ema": False, "checkpoint": "best.ckpt"}
    summary = {"weights": weights, "test_accuracy": 0.5, "test_loss": 1.0, "train_seconds": 1.0}
    return RunResult(directory=Path("run"), summary=summary, model=nn.Identity())


@pytest.fixture
def bases(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Base]:
    """A function that returns a short, valid command, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "dynaconv.demo", types.SimpleNamespace(run_demo=lambda **_: None))
    monkeypatch.setattr(export, "_export", lambda *_, **__: "exported")
    monkeypatch.setattr("dynaconv.train.run.fit", checked_only)
    monkeypatch.setattr("dynaconv.explore.networks.export_onnx", lambda *_, **__: None)
    monkeypatch.setattr("dynaconv.explore.server.PAGE", tmp_path)
    monkeypatch.setattr("dynaconv.commands.explore._serve", lambda *_: None)
    (tmp_path / "index.html").touch()
    (tmp_path / "networks").mkdir()
    network: Base = {"checkpoint": [checkpoint]}

    def base(command: str) -> Base:
        if command == "predict":
            return network | {"images": [str(write_image(tmp_path / "image.png", 10))]}
        if command == "advise":
            return {"checkpoint": [str(write_static_run(tmp_path / "static"))]}
        if command == "shard":
            return {"folder": [str(write_folder(tmp_path / "images", images=2))], "out": ["out"], "overwrite": []}
        if command == "study":
            return {"study": [str(write_study(tmp_path / "tiny.yaml"))], "list": []}
        return {
            "demo": {},
            "train": {"config": ["digits"]},
            "eval": network,
            "profile": network | {"compare": ["none"]},
            "analyze": {"checkpoints": [checkpoint], "out": ["report.html"], "overwrite": [], "images": ["20"]},
            "explore": {"checkpoints": [checkpoint], "images": ["20"], "port": ["0"]},
            "convert": network | {"again": []},
            "export": network | {"format": ["pt2"]},
            "models": {"pattern": ["se_resnet10"]},
            "env": {},
        }[command]

    return base


def argv_of(command: str, words: Base) -> list[str]:
    argv, flags = [command], []
    for action in PARSERS[command]._actions:
        if action.dest in words:
            (flags if action.option_strings else argv).extend([*action.option_strings[-1:], *words[action.dest]])
    return argv + flags


def values_of(action: argparse.Action) -> Iterator[str]:
    # The name of a file or folder may be any text.
    yield from ("", "x", "-1", WRONG[-1]) if action.metavar in ("FILE", "DIR") else WRONG
    if action.metavar == "KEY=VALUE":
        for key in ("", "a", "a.b", "num_classes", "in_chans", "latent_dim", "reduction"):
            yield from (f"{key}={value}" for value in (*WRONG[:-1], "NaN", "Infinity", "null", "[1]", '{"a": 1}'))
    if action.dest == "size":
        for value in WRONG:
            yield from (f"{value}x8x8", f"1x{value}x8", f"1x8x{value}")


@pytest.mark.parametrize("command", PARSERS)
def test_a_wrong_value_is_one_sentence_or_the_command_runs(
    command: str, bases: Callable[[str], Base], capsys: pytest.CaptureFixture[str]
) -> None:
    base = bases(command)
    for action in PARSERS[command]._actions:
        if action.nargs == 0:
            continue
        for value in values_of(action):
            # A run has no options; a network is built.
            network = {"checkpoint": ["test_resnet"]} if action.dest == "option" else {}
            argv = argv_of(command, base | network | {action.dest: [value]})
            code, error = main(argv), capsys.readouterr().err
            # An exception other than the program's own reaches this test.
            assert code in (0, 1, 2), argv
            assert code == 0 or (error.startswith("dynaconv: ") and error.count("\n") == 1), argv


def test_standard_output_may_be_ascii(checkpoint: str) -> None:
    command = [sys.executable, "-m", "dynaconv", "profile", checkpoint]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"MAdds" in done.stdout
    assert done.stdout.isascii()


def test_a_file_is_replaced_on_request_only(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    file.write_text("mine")
    argv = ["profile", checkpoint, "--compare", "none", "--json", str(file)]
    assert main(argv) == 2
    assert capsys.readouterr().err == f"dynaconv: {file} exists; pass --overwrite to replace it.\n"
    assert file.read_text() == "mine"
    assert main([*argv, "--overwrite"]) == 0
    assert json.loads(file.read_text())["params"]


def test_a_full_disk_exits_with_1(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.safetensors").symlink_to("/dev/full")
    assert main(["convert", checkpoint, "--again", "--out", str(tmp_path / "net.safetensors")]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert error.count("\n") == 1


def test_models_and_parameters_are_those_that_timm_builds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.json"
    assert main(["models", "dcd_resnet1*", "--json", str(file)]) == 0
    found = {each["name"]: each["parameters"] for each in json.loads(file.read_text())}
    network = create_network("dcd_resnet18", num_classes=1000, in_channels=3)
    assert found["dcd_resnet18"] == sum(parameter.numel() for parameter in network.parameters())
    out = capsys.readouterr().out
    assert all(name in out for name in found)
    assert main(["models", "dcdresnet18"]) == 2
    assert "'dcd_resnet18'" in capsys.readouterr().err


def test_env_names_what_an_extra_lacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("dynaconv.commands.env._version", lambda package: None if package == "nncf" else "1.0")
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert "models complete" in out
    assert "int8 lacks nncf" in out
    assert f"python          {sys.version.split()[0]}" in out
