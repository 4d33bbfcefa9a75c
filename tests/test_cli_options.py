"""Every option of every command acts: with it, the command does something else or is refused."""

import contextlib
import hashlib
import itertools
import re
import sys
import types
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dynaconv.cli import main
from dynaconv.commands import explore, export
from dynaconv.commands._network import LoadedNetwork
from dynaconv.study.folder import StudyFolder
from dynaconv.train.config import TrainConfig
from dynaconv.train.factory import create_network
from tests.test_cli_arguments import PARSERS, Base, argv_of, bases, checked_only, checkpoint  # noqa: F401
from tests.train.helpers import write_folder, write_image

SERVE = explore._serve
TINY = ["--data.name=digits", "--model.name=test_resnet"]
# A command with further words, and the options that are tried with it. A network replaces that of the base.
ACTS = {
    "demo": "--out here, --epochs 2, --seed 3",
    "train": "--config fashion-mnist, --out here, --resume ., --data glyphs-mini, --model static_resnet10, --epochs 2, "
    "--batch-size 7, --lr 0.5, --seed 3, --checkpoint-every-steps 3, --pretrained, --list-recipes, --help-all",
    "train --data glyphs": "--data-dir here",
    "study": "--folder here, --only fast, --seeds 1, --import here, --jobs 2, --retry, --keep-checkpoints, --costs, "
    "--report, --list, --list-studies",
    "study --costs": "--rounds 3",
    "study --report": "--out here",
    "study --report --out full": "--overwrite",
    "eval": "--data fashion-mnist-hard, --data-dir here, --split val, --batch-size 7, --device none, --json a.json",
    "eval --json full.json": "--overwrite",
    "predict": "--top 2, --json a.json",
    "predict --json full.json": "--overwrite",
    "profile": "--size 1x12x12, --batch-size 2, --latency, --csv a.csv, --json a.json, --compare test_resnet",
    "profile test_resnet": "--option num_classes=3",
    "profile --latency": "--rounds 2",
    "profile --json full.json": "--overwrite",
    "analyze": "--out other.html, --data fashion-mnist-hard, --data-dir here, --split val, --images 9, --batch-size 7, "
    "--device none, --layer layer1.0.conv2, --json a.json",
    "analyze --json full.json": "--overwrite",
    "explore": "--data glyphs-mini, --data-dir here, --images 9, --port 1, --no-browser",
    "convert": "--again, --out a.safetensors",
    "convert test_resnet": "--family se, --include layer1.*, --exclude layer1.*, --kinds pointwise, --kernel-sizes 1, "
    "--min-channels 64, --max-channels 64, --last-stages 1, --first 1, --last 1, --family-option latent_dim=2, "
    "--option num_classes=3, --weights {weights}, --context block",
    "convert --out full.safetensors": "--overwrite",
    "export": "--format onnx, --out a.pt2, --size 1x12x12, --fixed-batch, --fixed-size",
    "export test_resnet": "--option num_classes=3",
    "export --format onnx": "--native, --int8, --preprocessing",
    "export --format onnx --native": "--precision bf16",
    "export --format executorch": "--max-batch 2",
    "export --format litert": "--batches 2",
    "export --format onnx --int8": "--data fashion-mnist-hard, --data-dir here, --images 9, --max-drop 9",
    "export --out full.pt2": "--overwrite",
    "shard": "--out other, --shard-size 1KB, --shard-images 1, --seed 3",
    "shard {classes}": "--test-fraction 0.5",
    "shard {corrupt}": "--verify",
    "shard --out full": "--overwrite",
    "advise": "--json a.json",
    "advise --json full.json": "--overwrite",
    "models": "--json a.json",
    "models --json full.json": "--overwrite",
    "env": "--json a.json",
    "env --json full.json": "--overwrite",
}
CASES = [(command, option) for command, options in ACTS.items() for option in options.split(", ")]


def test_every_option_has_a_case() -> None:
    tried: dict[str, set[str]] = {}
    for command, option in CASES:
        tried.setdefault(command.split()[0], set()).add(option.split()[0])
    for command, parser in PARSERS.items():
        options = {action.option_strings[-1] for action in parser._actions if action.option_strings}
        # `--debug` shows the traceback of an error; timm's weights would be downloaded.
        options -= {"--help", "--debug", *(["--pretrained"] if command == "convert" else [])}
        assert tried[command] == options, command


def plain(value: Any) -> Any:
    """A value as text that is equal in equal calls."""
    if isinstance(value, nn.Module):
        return sum(parameter.numel() for parameter in value.parameters())
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, StudyFolder):
        return str(value.path)
    size = hasattr(value, "__len__") and not isinstance(value, str)
    text = f"{type(value).__name__} {len(value) if size else value}"
    return re.sub(r" at 0x\w+|(?<=dynaconv-explore-)\w+", "", text)


class Server(contextlib.nullcontext[Any]):
    """Stands for the server of the explorer."""

    def __init__(self, port: int, folder: Path | None = None) -> None:
        super().__init__(self)
        self.server_address = ("localhost", port)

    def serve_forever(self) -> None:
        """Return at once."""


@pytest.fixture
def recorded(bases: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch) -> list[Any]:  # noqa: F811
    """The calls of functions that take long, which are not executed, and of some that are."""
    calls: list[Any] = []

    def record(name: str, function: Callable[..., Any] = lambda *_, **__: None) -> None:
        def replacement(*given: Any, **options: Any) -> Any:
            calls.append((name, plain(given), plain(options)))
            return function(*given, **options)

        monkeypatch.setattr(name, replacement)

    for name in ("study.runner.run_study", "study.runner.run_in_processes", "study.record.import_runs"):
        record(f"dynaconv.{name}")
    record("dynaconv.study.costs.measure_costs", lambda *_, **__: {})
    record("dynaconv.study.results.read_results")
    record("dynaconv.study.report.write_report")
    demo = types.SimpleNamespace(run_demo=lambda **options: calls.append(plain(options)))
    monkeypatch.setitem(sys.modules, "dynaconv.demo", demo)
    record("dynaconv.train.run.fit", checked_only)
    record("dynaconv.train.run.resume", lambda *_, **__: checked_only(TrainConfig(), overrides=TINY))
    record("dynaconv.explore.networks.write_networks")
    record("dynaconv.export.int8_onnx.quantize_onnx")
    monkeypatch.setattr("dynaconv.explore.server.open_server", Server)
    monkeypatch.setattr(explore, "_serve", SERVE)
    monkeypatch.setattr(webbrowser, "open", lambda address: calls.append(address))
    # Equal calls print equal times: the clock moves by 1/1024 s each time it is read.
    ticks = itertools.count()
    for module in ("timing", "layer_latency"):
        monkeypatch.setattr(f"dynaconv.measure.{module}.synchronised_time", lambda *_: next(ticks) / 1024)

    def exported(form: str, network: LoadedNetwork, *given: Any, **options: Any) -> None:
        calls.append((form, plain(network.model), network.size, plain(given), plain(options)))

    monkeypatch.setattr(export, "_export", exported)
    for name in ("evaluate_checkpoint", "checkpoint_data"):
        function = getattr(__import__("dynaconv.train.checkpoint_evaluation", fromlist=[name]), name)
        record(f"dynaconv.train.checkpoint_evaluation.{name}", function)
    return calls


def observe(argv: list[str], calls: list[Any], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What a command does: its exit code, what it prints, the files it leaves and the calls it makes."""
    torch.manual_seed(0)
    calls.clear()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    try:
        code = main(argv)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    printed = capsys.readouterr()
    files = {}
    for path in Path().rglob("*"):
        if path.is_file() and path.read_bytes() != before.get(path):
            content = re.sub(rb"\d{4}-\d\d-\d\d[ T][\d:+]+( \w+)?", b"", path.read_bytes())
            files[str(path)] = hashlib.sha256(content).hexdigest()
            path.write_bytes(before[path]) if path in before else path.unlink()
    return {"code": code, "printed": printed.out + printed.err, "files": files, "calls": list(calls)}


@pytest.mark.parametrize(("command", "option"), CASES, ids=[f"{command} {option}" for command, option in CASES])
def test_an_option_acts(
    command: str,
    option: str,
    bases: Callable[[str], Base],  # noqa: F811
    recorded: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, *words = command.split()
    base = bases(name)
    places = {"classes": tmp_path / "classes" / "train", "corrupt": tmp_path / "corrupt", "weights": tmp_path / "w.pth"}
    if "{corrupt}" in words:
        folder = write_folder(places["corrupt"], images=2) / "train" / "dark"
        write_image(folder / "cut.jpg", 10)
        (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-40])
    if "{classes}" in words:
        write_folder(places["classes"].parent)
    if "weights" in option:
        network = create_network("test_resnet", num_classes=1000, in_channels=3)
        torch.save(network.state_dict(), places["weights"])
    (tmp_path / "full").mkdir()
    for suffix in ("json", "safetensors", "pt2", "md"):
        (tmp_path / (f"full.{suffix}" if suffix != "md" else "full/full.md")).write_text("mine")
    if words and not words[0].startswith("-"):
        base["folder" if name == "shard" else "checkpoint"] = [words.pop(0).format(**places)]
    flag, *value = option.format(**places).split()
    dest = next(action.dest for action in PARSERS[name]._actions if flag in action.option_strings)
    base = {dest: given for dest, given in base.items() if dest not in ("overwrite", "list")}
    if not value:
        base.pop(dest, None)
    argv = [*argv_of(name, base), *words]
    without, again, given = (observe(each, recorded, capsys) for each in (argv, argv, [*argv, flag, *value]))
    assert without == again, "the command without the option is not deterministic"
    assert without["code"] == 0 or flag in ("--overwrite", "--again"), without["printed"]
    assert given != without, f"{flag} changes nothing"
    assert given["code"] in (0, 1, 2)
