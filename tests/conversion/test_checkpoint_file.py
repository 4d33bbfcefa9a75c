"""Reading files that others wrote: what is unwrapped, what is refused, that nothing runs."""

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dynaconv.conversion.checkpoint_file import read_checkpoint
from dynaconv.errors import CheckpointError
from tests.messages import refuses

STATE = {"layer.weight": torch.ones(2, 3), "layer.bias": torch.zeros(2)}


class Creates:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class RunsShell:
    """Unpickling this runs a shell command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pth.tar", ".tar", ".bin", ".ckpt"])
def test_whatever_torch_saves_is_read(suffix: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    file = read_checkpoint(path)
    assert file.name == str(path)
    torch.testing.assert_close(file.state, STATE)


@pytest.mark.parametrize(
    "entry", ["state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema", "ema"]
)
def test_the_state_dict_may_be_an_entry_among_others(entry: str, tmp_path: Path) -> None:
    held = {
        "epoch": 3,
        "arch": "resnet18",
        "best_acc1": torch.tensor(73.1),
        "args": argparse.Namespace(lr=0.1),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]},
        entry: OrderedDict(STATE),
    }
    torch.save(held, tmp_path / "net.pth")
    file = read_checkpoint(tmp_path / "net.pth")
    assert file.entry == entry
    torch.testing.assert_close(file.state, STATE)


def test_the_weights_go_before_their_moving_average() -> None:
    average = {key: value + 1 for key, value in STATE.items()}
    file = read_checkpoint({"state_dict_ema": average, "model": {"state_dict": STATE}})
    assert file.entry == "model.state_dict"
    torch.testing.assert_close(file.state, STATE)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model."])
def test_wrappers_in_front_of_the_names_are_taken_off(prefix: str) -> None:
    file = read_checkpoint({f"{prefix}{key}": value for key, value in STATE.items()})
    torch.testing.assert_close(file.state, STATE)


def test_a_prefix_of_some_names_is_a_name() -> None:
    state = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert read_checkpoint(state).state.keys() == state.keys()


def test_an_averaged_model_of_torch_is_unwrapped() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(3, 2))
    assert read_checkpoint(averaged.state_dict()).state.keys() == {"weight", "bias"}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", [Creates, RunsShell])
def test_code_in_a_file_is_refused_and_does_not_run(kind: type, zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "net.pth"
    torch.save({"state_dict": STATE, "extra": kind(trace)}, path, _use_new_zipfile_serialization=zipped)
    with refuses(CheckpointError):
        read_checkpoint(path)
    assert not trace.exists()
    # The file is as dangerous as it should be.
    torch.load(path, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_does_not_run(protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps(Creates(trace), protocol=protocol))
    with pytest.raises(CheckpointError, match=r"was refused|is damaged, incomplete or no checkpoint"):
        read_checkpoint(path)
    assert not trace.exists()


def test_a_whole_pickled_module_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2), tmp_path / "net.pth")
    with refuses(CheckpointError, "torch.nn.modules.linear.Linear"):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("page.pth", b"<!DOCTYPE html><html>not found</html>"),
        ("text.pt", b"hello world"),
        ("text.safetensors", b"hello world"),
    ],
    ids=["empty", "page", "text", "text as safetensors"],
)
def test_files_that_are_no_checkpoint(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with refuses(CheckpointError, name):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_short_is_called_damaged(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"weight": torch.ones(5000)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:8000])
    with refuses(CheckpointError):
        read_checkpoint(path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with refuses(CheckpointError, "net.pth"):
        read_checkpoint(tmp_path / "net.pth")
    with refuses(CheckpointError):
        read_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    "held",
    [
        [torch.ones(2)],
        torch.ones(2),
        {},
        {"epoch": 3, "lr": 0.1},
        {"state_dict": {"epoch": 3}},
    ],
    ids=["a list", "a tensor", "empty", "no weights", "an entry without weights"],
)
def test_files_without_a_state_dict(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "net.pth")
    with refuses(CheckpointError, "net.pth"):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize(
    "source",
    [
        nn.Linear(3, 2),
        {"model": nn.Linear(3, 2)},
        7,
    ],
    ids=["a network", "an entry that is a network", "a number"],
)
def test_what_is_no_source(source: Any) -> None:
    with refuses(CheckpointError):
        read_checkpoint(source)
