"""``dynaconv train``: train a network with a recipe, or continue an interrupted run."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynaconv.commands._shared import add_command
from dynaconv.errors import RunError

if TYPE_CHECKING:
    from rich.console import Console

    from dynaconv.train.run import RunResult

SHORT_FLAGS = {
    "--data": (
        "data.name",
        "NAME",
        "digits, glyphs, fashion-mnist, ..., a path to an image folder, or a timm data set name",
    ),
    "--data-dir": ("data.data_dir", "DIR", "folder of the data"),
    "--model": ("model.name", "NAME", "a timm model name, dynaconv's included, such as dcd_mobilenetv2_050"),
    "--epochs": ("trainer.max_epochs", "N", "number of epochs; 30 without a recipe"),
    "--batch-size": ("data.batch_size", "N", "images per step on each device"),
    "--lr": ("model.lr", "RATE", "peak learning rate"),
    "--checkpoint-every-steps": (
        "checkpoint.every_steps",
        "N",
        "save every N updates of the weights; by default every ten minutes and after every epoch",
    ),
    "--seed": ("seed", "N", "seed of weights, image order, augmentation and dropout"),
}
_EPILOG = (
    "Every argument of the data module, the Lightning module and the Lightning Trainer can also be set, with "
    "--data.KEY, --model.KEY and --trainer.KEY: `dynaconv train --help-all` lists them. Flags override the recipe."
)


def add(commands: Any) -> None:
    """Add ``dynaconv train``."""
    train = add_command(commands, "train", "train a network with a recipe", run, _EPILOG)
    train.set_defaults(passes_on=True)
    train.add_argument("--recipe", metavar="NAME|FILE.yaml", help="a shipped recipe's name, or a file")
    train.add_argument("--out", metavar="DIR", help="run folder; by default a new one under runs/")
    train.add_argument("--resume", metavar="RUN", help="continue an interrupted run in its folder")
    for flag, (target, metavar, text) in SHORT_FLAGS.items():
        train.add_argument(flag, dest=target, metavar=metavar, help=text)
    train.add_argument("--list-recipes", action="store_true", help="print the names of the shipped recipes and exit")
    train.add_argument("--help-all", action="store_true", help="print every argument and exit")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Train or resume, or print the available recipes or arguments."""
    from dynaconv.train.config import TrainConfig, load_recipe, make_parser, recipe_names
    from dynaconv.train.data.sources import check_source_name

    if arguments.help_all:
        make_parser().print_help()
        return
    if arguments.list_recipes:
        print("\n".join(recipe_names()))
        return
    short = [(key, getattr(arguments, key)) for key, _, _ in SHORT_FLAGS.values()]
    _check_rest(rest)
    if arguments.out == "":
        raise RunError("--out is a folder; got an empty name.")
    overrides = [f"--{key}={value}" for key, value in short if value is not None] + rest
    if arguments.resume:
        if arguments.out:
            raise RunError("--resume continues a run in its own folder; leave --out out.")
        config = load_recipe(arguments.recipe) if arguments.recipe else None
    elif arguments.recipe:
        config = load_recipe(arguments.recipe)
    else:
        data = getattr(arguments, "data.name")
        if data is None and not rest:
            raise RunError(f"pass --recipe NAME ({', '.join(recipe_names())}) or a file, or --data and --model.")
        if data is not None:
            check_source_name(data)
        config = load_recipe(data) if data in recipe_names() else TrainConfig()
    _train_with(config, arguments, overrides)


def _check_rest(rest: list[str]) -> None:
    """Check that all flags exist and all words belong to one. The configuration checks the values."""
    from dynaconv.train.config import make_parser, unknown_flag

    known = {flag for action in make_parser()._actions for flag in action.option_strings}
    # Any other known key may hold a dictionary or class with further keys, such as --model.model_options.drop_rate.
    open_keys = known - {"--data", "--model", "--trainer"}
    takes_value = False
    for word in rest:
        flag, given, _ = word.partition("=")
        if flag.startswith("--"):
            parts = flag.split(".")
            above = {".".join(parts[:count]) for count in range(1, len(parts))}
            if flag not in known and not above & open_keys:
                raise RunError(unknown_flag(flag, [*SHORT_FLAGS, "--recipe", "--out", "--resume"]))
            takes_value = not given
        elif takes_value:
            takes_value = False
        else:
            raise RunError(f"unknown argument {word!r}; see `dynaconv train --help`.")


def _train_with(config: Any, arguments: argparse.Namespace, overrides: list[str]) -> None:
    from dynaconv.train.console import ConsoleReport
    from dynaconv.train.folders import is_first_process
    from dynaconv.train.run import fit, resume
    from dynaconv.train.stopping import RunStopped
    from dynaconv.train.strategy import leave_processes

    folders: list[Path] = []
    with ConsoleReport() as report:

        def start(folder: Path, facts: dict[str, Any]) -> None:
            folders.append(folder)
            report.start(folder, facts)

        try:
            if arguments.resume:
                result = resume(arguments.resume, config=config, overrides=overrides, report=report, on_start=start)
            else:
                result = fit(config, out=arguments.out, overrides=overrides, report=report, on_start=start)
        except RunStopped as stopped:
            if not is_first_process():
                return
            message = f"{str(stopped).rstrip('.')}; continue with `dynaconv train --resume {stopped.directory}`"
            if stopped.signal == "SIGINT":
                raise KeyboardInterrupt(message) from None
            print(f"dynaconv: {message}", file=sys.stderr)
            return
        except KeyboardInterrupt:
            if folders and is_first_process() and (folders[0] / "checkpoints" / "last.ckpt").is_file():
                message = f"interrupted; continue with `dynaconv train --resume {folders[0]}`"
                raise KeyboardInterrupt(message) from None
            raise
    leave_processes()
    if is_first_process():
        _print_summary(report.console, result)


def _print_summary(console: "Console", result: "RunResult") -> None:
    summary, weights = result.summary, result.summary["weights"]
    source = f"epoch {weights['epoch']} ({'moving average, ' if weights['ema'] else ''}{weights['checkpoint']})"
    console.print(
        f"test accuracy {summary['test_accuracy']:.2%}, loss {summary['test_loss']:.4f} with {source}; "
        f"{summary['train_seconds']:.0f} s of training"
    )
    console.print(f"everything is in {result.directory}")
