"""``dynaconv shard`` on the command line, and a run on what it packed."""

from pathlib import Path

import pytest

from dynaconv.cli import main
from tests.train.helpers import write_folder


def test_a_folder_is_packed_and_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = write_folder(tmp_path / "images", ("train", "val"), images=12), tmp_path / "shards"
    assert main(["shard", str(folder), str(out), "--shard-images", "5", "--verify"]) == 0
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images"], "holds no .tar file; to pack an image folder name OUT as well"),
        (["images", "--seed", "1"], "--seed is for packing, which needs OUT"),
        (["images", "images"], "is not an empty folder"),
        (["nowhere", "out"], "there is no folder"),
        (["images", "out", "--shard-size", "huge"], "such as 100MB; got 'huge'"),
        (["images", "out", "--shard-images", "0"], "at least 1 image; got 0"),
        (["images", "out", "--test-fraction", "1.5"], "a share between 0 and 1; got 1.5"),
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
