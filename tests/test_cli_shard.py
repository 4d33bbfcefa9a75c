"""``dynaconv shard`` on the command line, and a run on what it packed."""

import signal
from pathlib import Path
from typing import Any

import pytest

from dynaconv.cli import main
from tests.train.helpers import write_folder


def test_a_folder_is_packed_and_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = write_folder(tmp_path / "images", ("train", "val"), images=12), tmp_path / "shards"
    assert main(["shard", str(folder), "-o", str(out), "--shard-images", "5", "--verify"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"2 classes (dark, light), 24 training and 24 test images. {folder} has no test/: val/ is the test set.",
        "train: 24 images in 5 shards",
        "validation: 24 images in 5 shards",
        f"2 classes; train with `dynaconv train --data wds/{out}`",
    ]
    assert main(["shard", str(out)]) == 0
    assert "train: 24 images in 5 shards" in capsys.readouterr().out
    run = ["train", "--data", f"wds/{out}", "--model", "test_resnet", "--data.image_size", "32", "--batch-size", "8"]
    run += [
        "--epochs",
        "1",
        "--trainer.accelerator",
        "cpu",
        "--trainer.logger",
        "false",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*run, "--data.num_workers", "2"]) == 0
    said = capsys.readouterr().out
    # One shard of the five is held out.
    assert "19 training, 5 validation, 24 test images" in said
    assert "3 training images are left out of each epoch" in said


def test_a_failure_leaves_nothing_that_blocks_the_next_try(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = write_folder(tmp_path / "images", images=12), tmp_path / "shards"
    broken = folder / "train" / "light" / "0.png"
    whole = broken.read_bytes()
    argv = ["shard", str(folder), "-o", str(out), "--shard-images", "9"]
    for overwrite in ([], ["--overwrite"]):
        before = {path.name: path.read_bytes() for path in out.glob("*")}
        broken.write_bytes(b"broken")
        assert main([*argv, *overwrite]) == 2
        assert f"the image {broken} is corrupt" in capsys.readouterr().err
        assert {path.name for path in tmp_path.iterdir()} <= {"images", "shards"}
        assert {path.name: path.read_bytes() for path in out.glob("*")} == before
        broken.write_bytes(whole)
        assert main([*argv, *overwrite]) == 0


def test_an_interrupt_while_shards_are_replaced_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = write_folder(tmp_path / "images", images=12), tmp_path / "shards"
    argv = ["shard", str(folder), "-o", str(out), "--shard-images", "9"]
    assert main([*argv, "--seed", "1"]) == 0
    before, unlink = {path.name: path.read_bytes() for path in out.iterdir()}, Path.unlink

    def interrupted(path: Path, **options: Any) -> None:
        unlink(path, **options)
        if path.parent == out:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Path, "unlink", interrupted)
    assert main([*argv, "--seed", "2", "--overwrite"]) == 130
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert after.keys() == before.keys()
    assert after != before
    assert {path.name for path in tmp_path.iterdir()} == {"images", "shards"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["images"], "holds no .tar file; to pack an image folder pass --out DIR"),
        (["images", "--seed", "1"], "--seed is for packing, which needs --out"),
        (["images", "-o", "images"], "images exists; pass --overwrite to replace it"),
        (["images", "-o", "images", "--overwrite"], "is not a folder of shards alone"),
        (["images", "-o", "images/train/dark/0.png"], "it is a file; name a folder"),
        (["nowhere", "-o", "out"], "there is no folder"),
        (["images", "-o", "out", "--shard-size", "huge"], "such as 100MB; got 'huge'"),
        (["images", "-o", "out", "--shard-images", "0"], "--shard-images must be an integer from 1 to"),
        (["images", "-o", "out", "--test-fraction", "1.5"], "--test-fraction must be a number from 1e-06 to"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images", images=2)
    assert main(["shard", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
