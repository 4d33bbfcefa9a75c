"""``dynaconv train``: train a network with a recipe, or continue an interrupted run."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynaconv.commands._shared import add_command
from dynaconv.errors import RunError
from dynaconv.train import RECIPES

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
    train.add_argument("--config", metavar="NAME|FILE.yaml", help="a shipped recipe's name, or a file")
    train.add_argument("-o", "--out", metavar="DIR", help="run folder; by default a new one under runs/")
    train.add_argument("--resume", metavar="RUN", help="continue an interrupted run in its folder")
    for flag, (target, metavar, text) in SHORT_FLAGS.items():
        train.add_argument(flag, dest=target, metavar=metavar, help=text)
    train.add_argument("--pretrained", action="store_true", help="start from timm's weights of the model")
    train.add_argument("--list-recipes", action="store_true", help="print the names of the shipped recipes and exit")
    train.add_argument("--help-all", action="store_true", help="print every argument and exit")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Train or resume, or print the available recipes or arguments."""
    if arguments.list_recipes:
        print("\n".join(RECIPES.names()))
        return
    # Set before torch is imported. By default, waiting threads of OpenMP spin for long, which makes a step several
    # times slower if other processes compute on the same cores. A short spin costs little on an idle machine.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from dynaconv.train.config import TrainConfig, load_recipe, make_parser, parse_overrides
    from dynaconv.train.data.sources import check_source_name

    if arguments.help_all:
        make_parser().print_help()
        return
    short = [(key, getattr(arguments, key)) for key, _, _ in SHORT_FLAGS.values()]
    parse_overrides(rest, short=SHORT_FLAGS)
    overrides = [f"--{key}={value}" for key, value in short if value is not None] + rest
    if arguments.pretrained:
        overrides.append("--model.pretrained=true")
    if arguments.resume:
        if arguments.out:
            raise RunError("--resume continues a run in its own folder; leave --out out.")
        config = load_recipe(arguments.config) if arguments.config else None
    elif arguments.config:
        config = load_recipe(arguments.config)
    else:
        data = getattr(arguments, "data.name")
        if data is None and not rest:
            raise RunError(f"pass --config NAME ({', '.join(RECIPES.names())}) or a file, or --data and --model.")
        if data is not None:
            check_source_name(data)
        config = load_recipe(data) if data in RECIPES.names() else TrainConfig()
    _train_with(config, arguments, overrides)


def _train_with(config: Any, arguments: argparse.Namespace, overrides: list[str]) -> None:
    from dynaconv.train.folders import is_first_process
    from dynaconv.train.progress import RunProgress
    from dynaconv.train.run import fit, resume
    from dynaconv.train.stopping import RunStopped
    from dynaconv.train.strategy import leave_processes
    from dynaconv.train.threads import limit_threads

    folders: list[Path] = []
    progress = RunProgress()

    def start(folder: Path, facts: dict[str, Any]) -> None:
        folders.append(folder)
        progress.start(folder, facts)

    limit_threads()
    options: dict[str, Any] = {"overrides": overrides, "on_start": start, "callbacks": [progress]}
    try:
        if arguments.resume:
            result = resume(arguments.resume, config=config, **options)
        else:
            result = fit(config, out=arguments.out, **options)
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
        _print_summary(progress.console, result)


def _print_summary(console: "Console", result: "RunResult") -> None:
    summary, weights = result.summary, result.summary["weights"]
    source = f"epoch {weights['epoch']} ({'moving average, ' if weights['ema'] else ''}{weights['checkpoint']})"
    console.print(
        f"test accuracy {summary['test_accuracy']:.2%}, loss {summary['test_loss']:.4f} with {source}; "
        f"{summary['train_seconds']:.0f} s of training"
    )
    console.print(f"everything is in {result.directory}")
