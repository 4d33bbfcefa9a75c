"""The command line: its flags, its exit codes, and one sentence for every mistake."""

import argparse
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from dynaconv import cli
from dynaconv.cli import main
from dynaconv.commands import predict, train
from tests.messages import refuses

TINY = [
    "--model=test_resnet",
    "--model.model_options={}",
    "--data.train_limit=64",
    "--batch-size=32",
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
    "--epochs=1",
]
DATA = ("--data", "--data-dir")


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command by its name."""
    (commands,) = (a for a in cli.make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(commands.choices)


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("demo", {"-o", "--out", "--epochs", "--seed"}),
        (
            "train",
            {
                "--config",
                "-o",
                "--out",
                "--resume",
                "--data",
                "--data-dir",
                "--model",
                "--epochs",
                "--batch-size",
                "--lr",
            }
            | {"--seed", "--pretrained", "--list-recipes", "--help-all", "--checkpoint-every-steps"},
        ),
        (
            "study",
            {"study", "--folder", "--only", "--seeds", "--jobs", "--retry", "--keep-checkpoints", "--list"}
            | {"--list-studies", "--costs", "--rounds", "--report", "-o", "--out", "--overwrite", "--import"},
        ),
        ("eval", {"checkpoint", *DATA, "--split", "--batch-size", "--device", "--json", "--overwrite"}),
        ("predict", {"checkpoint", "images", "--top", "--json", "--overwrite"}),
        (
            "profile",
            {"checkpoint", "--size", "--batch-size", "--latency", "--rounds", "--option", "--csv", "--json"}
            | {"--overwrite", "--compare"},
        ),
        (
            "analyze",
            {"checkpoints", "-o", "--out", "--overwrite", *DATA, "--split", "--images", "--batch-size", "--layer"}
            | {"--device", "--json"},
        ),
        ("explore", {"checkpoints", *DATA, "--images", "--port", "--no-browser"}),
        (
            "convert",
            {"checkpoint", "--family", "--include", "--exclude", "--kinds", "--kernel-sizes", "--min-channels"}
            | {
                "--max-channels",
                "--last-stages",
                "--context",
                "--first",
                "--last",
                "--again",
                "--family-option",
                "--option",
                "--weights",
            }
            | {"--pretrained", "-o", "--out", "--overwrite"},
        ),
        (
            "export",
            {"checkpoint", "--format", "-o", "--out", "--overwrite", "--size", "--fixed-batch", "--fixed-size"}
            | {
                "--max-batch",
                "--batches",
                "--native",
                "--precision",
                "--option",
                "--int8",
                *DATA,
                "--images",
                "--max-drop",
            }
            | {"--preprocessing"},
        ),
        (
            "shard",
            {"folder", "-o", "--out", "--overwrite", "--shard-size", "--shard-images", "--test-fraction", "--seed"}
            | {"--verify"},
        ),
        ("advise", {"checkpoint", "--json", "--overwrite"}),
        ("models", {"pattern", "--json", "--overwrite"}),
        ("env", {"--json", "--overwrite"}),
    ],
)
def test_flags_change_on_purpose_only(command: str, flags: set[str]) -> None:
    found = {flag for action in parsers()[command]._actions for flag in action.option_strings or [action.dest]}
    assert found == flags | {"-h", "--help", "--debug"}


def test_every_argument_of_data_and_module_is_a_flag() -> None:
    from dynaconv.train.config import make_parser

    flags = {f for a in make_parser()._actions for f in a.option_strings if f.startswith(("--data.", "--model."))}
    data = "name data_dir classes channels image_size batch_size eval_batch_size num_workers val_fraction test_fraction"
    data += " split_seed train_limit augment crop_pct"
    data += " interpolation epoch_size shuffle_buffer max_corrupt options"
    model = "name model_options classifier_std optimizer lr weight_decay decay_norm_and_bias schedule"
    model += " label_smoothing mix ema_decay channels_last compiled_operators temperature pretrained weights"
    model += " lr_reference_batch skip_nonfinite branch_lr branch_weight_decay"
    plain = {f for f in flags if not f.endswith(("+", ".help"))}
    assert plain == {f"--data.{key}" for key in data.split()} | {f"--model.{key}" for key in model.split()}


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must fail as a user's mistake; return its sentence."""
    code = main(list(argv))
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.err.startswith("dynaconv: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "--config", "digits", *TINY, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    from tests.train.helpers import write_image

    return [str(write_image(tmp_path / f"{value}.png", value)) for value in (10, 200)]


def test_train_tells_where_everything_is(run_folder: Path) -> None:
    assert json.loads((run_folder / "summary.json").read_text())["test_images"] == 450


def test_eval_prints_every_class_and_writes_json(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    assert main(["eval", str(run_folder), "--json", str(file), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    result = json.loads(file.read_text())
    summary = json.loads((run_folder / "summary.json").read_text())
    assert result["accuracy"] == pytest.approx(summary["test_accuracy"])
    assert f"{result['accuracy']:.2%}" in printed
    assert list(result["per_class"]) == [str(digit) for digit in range(10)]
    assert main(["eval", str(run_folder / "checkpoints" / "last.ckpt"), "--split", "val"]) == 0
    assert "digits, val images" in capsys.readouterr().out


def test_predict_prints_five_classes_an_image(
    run_folder: Path, images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    assert main(["predict", str(run_folder), *images, "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[0] == images[0]
    assert all("%" in line for line in lines[1:6])
    predictions = json.loads(file.read_text())["predictions"]
    assert [p["image"] for p in predictions] == images
    assert all(len(p["top"]) == 5 for p in predictions)


def test_predict_goes_on_after_a_file_that_it_cannot_read(
    run_folder: Path, images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    file = tmp_path / "result.json"
    folders = [str(tmp_path), str(tmp_path / "1*.png"), str(tmp_path / "empty"), str(tmp_path / "*.jpg")]
    assert main(["predict", str(run_folder), *folders, f"{tmp_path}/none.png", "--json", str(file)]) == 1
    captured = capsys.readouterr()
    printed = [line for line in captured.out.splitlines() if not line.startswith(" ")]
    assert printed == [images[0], images[1], images[0]]
    errors = ["no image file in the folder", "no image file that matches", "broken.png is corrupt", "none.png"]
    assert captured.err.count("dynaconv: ") == captured.err.count("\n") == len(errors)
    written = json.loads(file.read_text())
    assert all(any(error in sentence for sentence in written["errors"]) for error in errors)
    assert [prediction["image"] for prediction in written["predictions"]] == printed


@pytest.mark.parametrize("given", ["-", "/dev/stdout", "/proc/self/fd/1"])
def test_a_file_on_standard_output_stands_there_alone(
    given: str, run_folder: Path, images: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    size = ["--size", "1x16x16", "--compare", "none"]
    cases = {
        "likeliest five": ["eval", str(run_folder), "--device", "cpu", "--json", given],
        "%": ["predict", str(run_folder), *images, "--json", given],
        "MAdds": ["profile", "test_resnet", *size, "--json", given],
        "published": ["profile", "test_resnet", *size, "--csv", given],
    }
    for printed, argv in cases.items():
        assert main(argv) == 0
        captured = capfd.readouterr()
        assert printed in captured.err
        if "--json" in argv:
            assert json.loads(captured.out)
        else:
            assert captured.out.startswith("name,kind,")
            assert captured.out.splitlines()[-1].startswith("total,")


def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "x")
    argv = ["profile", "no_such_model", "--json"]
    assert f"there is no folder {tmp_path / 'nowhere'}." in refused(capsys, *argv, str(tmp_path / "link"))
    assert "--csv and --json both write" in refused(capsys, *argv, "-", "--csv", "/dev/stdout")
    assert "--csv and --json both write" in refused(capsys, *argv, str(tmp_path / "x"), "--csv", f"{tmp_path}/./x")
    # Root may write everywhere.
    monkeypatch.setattr("os.access", lambda *_: False)
    assert main([*argv, str(tmp_path / "x")]) == 1
    sentence = f"dynaconv: the system refused: Permission denied ({tmp_path / 'x'}).\n"
    assert capsys.readouterr().err == sentence


def test_a_full_disk_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["profile", "test_resnet", "--size", "1x16x16", "--compare", "none", "--json", "/dev/full"]
    assert main(argv) == 1
    assert capsys.readouterr().err == "dynaconv: the system refused: No space left on device (/dev/full).\n"


def test_profile_compares_with_the_static_twin_and_writes_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "layers.csv", tmp_path / "all.json"]
    options = ["--option", "num_classes=7", "--option", "stem_stride=1", "--option", "family_options.reduction=8"]
    argv = ["profile", "dcd_mobilenetv2_035", "--size", "1x14x10", "--batch-size", "2", *options]
    assert main([*argv, "--csv", str(files[0]), "--json", str(files[1]), "--latency", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    facts = json.loads(files[1].read_text())
    assert facts["input_size"] == [2, 1, 14, 10]
    assert facts["options"]["family_options"] == {"reduction": 8}
    assert facts["compared"]["model"] == "static_mobilenetv2_035"
    assert facts["compared"]["options"] == {"num_classes": 7, "in_chans": 1, "stem_stride": 1}
    assert facts["compared"]["layers"][-1]["params"] == facts["layers"][-1]["params"]
    for profile in (facts, facts["compared"]):
        assert f"{profile['params']:,}" in printed
        assert f"{profile['published_macs']:,}" in printed
    assert f"{facts['macs'] / facts['compared']['macs']:.3f}" in printed
    assert "median of 1 alternating rounds" in printed
    assert files[0].read_text().splitlines()[-1].startswith("total,")


def test_profile_takes_a_run_and_its_size(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "all.json"
    assert main(["profile", str(run_folder), "--json", str(file)]) == 0
    facts = json.loads(file.read_text())
    assert (facts["model"], facts["options"]["num_classes"], facts["input_size"]) == ("test_resnet", 10, [1, 1, 16, 16])
    assert "may need --batch-size 2" in " ".join(capsys.readouterr().out.split())
    assert "compared" not in facts
    assert main(["profile", "dcd_resnet10", "--size", "1x16x16", "--compare", str(run_folder)]) == 0
    assert "test_resnet of" in capsys.readouterr().out
    assert "takes images of 1 channel, not 3." in refused(capsys, "profile", str(run_folder), "--size", "3x28x28")
    for option in ("stem_stride=1", "num_classes=3"):
        assert "leave --option" in refused(capsys, "profile", str(run_folder), "--option", option)


def test_demo_calls_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []
    module = types.SimpleNamespace(run_demo=lambda **given: calls.append(given))
    monkeypatch.setitem(sys.modules, "dynaconv.demo", module)
    assert main(["demo", "--out", str(tmp_path), "--epochs", "2"]) == 0
    assert calls == [{"out": tmp_path, "epochs": 2, "seed": 0}]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["bogus"], "unknown command 'bogus'; see `dynaconv --help`."),
        (["predcit"], "unknown command 'predcit', did you mean predict;"),
        (["--hlep"], "unknown option --hlep, did you mean --help;"),
        (["train"], "pass --config NAME (digits"),
        (["train", "--config", "digitz"], "the nearest names are 'digits'"),
        (
            ["train", "--config", "digits", "--model", "dcd_mobilnetv2_035"],
            "the nearest names are 'dcd_mobilenetv2_035'",
        ),
        (
            ["train", "--config", "digits", "--data", "digitts"],
            "unknown data set 'digitts'; the nearest names are 'digits'",
        ),
        (["train", "--config", "digits", "--data", "/nowhere/at/all"], "there is no folder /nowhere/at/all"),
        (["train", "--config", "digits", "--model.lrr", "3"], "did you mean --model.lr,"),
        (["train", "--config", "digits", "--epoch", "1"], "unknown option --epoch; did you mean --epochs"),
        (["train", "--config", "digits", "--epoch=1"], "unknown option --epoch; did you mean --epochs"),
        (["train", "--config", "digits", "--lr", "0.1", "extra"], "unknown argument 'extra'"),
        (["train", "--config", "digits", "--epochs", "0"], "--epochs is at least 1; got 0."),
        (["train", "--config", "digits", "--epochs", "-1"], "--epochs is at least 1; got -1."),
        (["train", "--config", "digits", "--epochs", "9" * 400], "--epochs is at most 2,147,483,647"),
        (["train", "--config", "digits", "--trainer.max_steps", "9" * 400], "--trainer.max_steps is at most"),
        (["train", "--config", "digits", "--seed", "-1"], "--seed is between 0 and"),
        (["train", "--config", "digits", "--data.num_workers", "-1"], "data.num_workers must be at least 0; got -1."),
        (["train", "--config", "digits", "--out", ""], "-o/--out must not be empty"),
        (["train", "--data", "digitz"], "unknown data set 'digitz'; the nearest names are 'digits'"),
        (["train", "--data", "torch/image_folder"], "the run lacks 'model.name'; pass --model NAME"),
        (["demo", "--seed", "-1"], "--seed must be an integer from 0 to 4294967295; got '-1'"),
        (["train", "--config", "digits", "--epochs", "x"], "trainer.max_epochs must be an integer or null; got x."),
        (["train", "--config", "digits", "--trainer.devices", "0"], "the Trainer does not take its options"),
        (["train", "--resume", "/nowhere"], "is not a run folder"),
        (["train", "--resume", "x", "--out", "y"], "continues a run in its own folder; leave --out out"),
        (["eval"], "the following arguments are required: CHECKPOINT"),
        (["eval", "/nowhere"], "there is no checkpoint /nowhere"),
        (["eval", "x", "--bogus"], "unknown option --bogus; see `dynaconv eval --help`."),
        (["eval", "x", "--batch=4"], "unknown option --batch, did you mean --batch-size;"),
        (["eval", "x", "y"], "unknown argument 'y'"),
        (["eval", "x", "--split", "all"], "--split must be train, val or test; got 'all'"),
        (["eval", "x", "--json", "/nowhere/x.json"], "there is no folder /nowhere"),
        (["eval", "x", "--json", "."], "it is a folder; name a file"),
        (["predict", "x", "x.png", "--json", "."], "it is a folder; name a file"),
        (["predict", "x"], "the following arguments are required: IMAGE"),
        (["predict", "x", "x.png", "--top", "0"], "--top must be an integer from 1 to 2147483647; got '0'"),
        (["predict", "/nowhere", "x.png"], "there is no checkpoint /nowhere"),
        (["profile"], "the following arguments are required: CHECKPOINT"),
        (["profile", "dcd_resnet81"], "the nearest names are 'dcd_resnet"),
        (["profile", "runs/none"], "there is no checkpoint runs/none"),
        (["profile", "test_resnet", "--size", "3x8"], "--size must be CHANNELSxHEIGHTxWIDTH or SIDE"),
        (["profile", "test_resnet", "--size", "3x0x8"], "3x224x224 or 224; got '3x0x8'"),
        (["profile", "vgg11", "--size", "1x28x28"], "vgg11: VGG does not accept an input of size (1, 1, 28, 28)"),
        (["profile", "vit_tiny_patch16_224", "--size", "28"], "does not accept an input of size (1, 3, 28, 28)"),
        (["profile", "test_vit", "--size", "3x33x33"], "test_vit: VisionTransformer does not accept an input of size"),
        (["profile", "test_resnet", "--rounds", "3"], "pass --latency too"),
        (["study", "rates", "--rounds", "3"], "pass --costs too"),
        (["profile", "test_resnet", "--option", "num_classes"], "--option takes KEY=VALUE"),
        (["profile", "test_resnet", "--option", "num_classes=x"], "num_classes of test_resnet must be an integer"),
        (["profile", "test_resnet", "--option", "a=1", "--option", "a.b=1"], "another --option gives a value"),
        (["profile", "test_resnet", "--option", "nonsense=1"], "unexpected keyword argument 'nonsense'"),
        (["profile", "dcd_resnet10", "--option", "family_options.reduction=0"], "reduction"),
        (["profile", "test_resnet", "--compare", "test_resnett"], "the nearest names are 'test_resnet'"),
        (["profile", "test_resnet", "--csv", "/nowhere/x.csv"], "there is no folder /nowhere"),
        (["profile", "test_resnet", "--json", "."], "it is a folder; name a file"),
    ],
)
def test_a_mistake_is_one_sentence(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, *argv)
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ('{"family_options": {"reduction": 0}}', "reduction"),
        ('{"family_options": {"latent_dim": -1}}', "latent_dim"),
        ('{"family_options": {"blocks": 7}}', "blocks"),
        ('{"family_options": {"variant": "nonsense"}}', "variant"),
        ('{"family_options": {"norm": "nonsense"}}', "norm"),
        ('{"reduction": 0}', 'go into {"family_options": {}}'),
        ('{"stem_stride": 3}', "stem_stride"),
        ('{"no_such_option": 1}', "no_such_option"),
    ],
)
def test_a_dynamic_option_that_does_not_fit_is_one_sentence(
    options: str, word: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ["--model", "dcd_mobilenetv2_035", "--model.model_options", options, "--out", str(tmp_path / "run")]
    assert word in refused(capsys, "train", "--config", "digits", *given)
    assert not (tmp_path / "run").exists()


def test_a_run_by_a_data_sets_name_takes_another_librarys_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--data",
        "digits",
        *(word for word in TINY if "model_options" not in word),
        "--out",
        str(tmp_path / "r"),
    ]
    assert main(["train", *options, "--trainer.limit_train_batches=1"]) == 0
    printed = capsys.readouterr().out
    assert "the recipe's model_options (stem_stride: 1) are left out" in printed
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["model_options"] == {}


def test_a_reader_that_goes_away_ends_the_command_quietly(run_folder: Path, images: list[str]) -> None:
    commands = (
        ["eval", str(run_folder), "--device", "cpu"],
        ["predict", str(run_folder), *images],
    )
    for argv in commands:
        with subprocess.Popen(
            [sys.executable, "-m", "dynaconv", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            error = process.stderr.read()
        assert (process.returncode, error) == (141, b"")


def test_a_device_that_is_not_there_is_one_sentence(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for device in ("mps", "nonsense"):
        sentence = refused(capsys, "eval", str(run_folder), "--device", device)
        assert sentence == f"dynaconv: there is no device {device!r} here; pass --device cpu.\n"


def test_empty_folder_and_corrupt_images_are_one_sentence(
    run_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tests.train.helpers import write_folder

    (tmp_path / "empty").mkdir()
    assert "found none" in refused(capsys, "train", "--config", "digits", "--data", str(tmp_path / "empty"))
    folder = write_folder(tmp_path / "images")
    broken = folder / "train" / "light" / "0.png"
    broken.write_bytes(b"broken")
    options = [*TINY, "--data.train_limit=null", "--data", str(folder), "--data.image_size=32", "--batch-size=2"]
    options += ["--data.num_workers=1", "--out", str(tmp_path / "run"), "--data.val_fraction=0"]
    assert f"the image {broken} is corrupt" in refused(capsys, "train", "--config", "digits", *options)


def test_checkpoints_that_do_not_fit_are_one_sentence(
    run_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes((run_folder / "model.safetensors").read_bytes()[:999])
    assert "is damaged" in refused(capsys, "eval", str(damaged))
    from tests.train.helpers import write_folder

    folder = write_folder(tmp_path / "images")
    assert "has 2 classes, the checkpoint's model 10" in refused(capsys, "eval", str(run_folder), "--data", str(folder))


def test_a_run_is_never_written_over(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, "train", "--config", "digits", *TINY, "--out", str(run_folder))
    assert f"use {run_folder}-2" in sentence
    assert "is finished" in refused(capsys, "train", "--resume", str(run_folder))


def test_a_diverged_run_exits_with_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    argv = ["train", "--config", "digits", *TINY, "--lr", "1e6", "--out", str(tmp_path / "run")]
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert "lower the learning rate" in error
    assert error.count("\n") == 1


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with refuses(ValueError):
        main(["train", "--config", "nonsense", "--debug"])


def test_an_interrupt_exits_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "run", interrupt)
    assert main(["predict", "x", "x.png"]) == 130


def test_a_missing_extra_is_one_sentence(
    run_folder: Path, images: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise ModuleNotFoundError("No module named 'lightning'", name="lightning.pytorch")

    monkeypatch.setattr(train, "run", missing)
    assert 'pip install "dynaconv[train]"' in refused(capsys, "train")


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, word in ((["--help"], "predict"), (["--version"], "dynaconv 0."), (["train", "--help"], "--config")):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 0
        assert word in capsys.readouterr().out
    assert main([]) == 2
