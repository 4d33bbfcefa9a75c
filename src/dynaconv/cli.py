"""The command line: ``dynaconv demo|train|eval|predict``."""

import argparse
import sys
from collections.abc import Callable, Sequence

from dynaconv.errors import DynaconvError, TrainingDivergedError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (a run failed), 2 (bad input) or 130 (interrupted)."""
    parser = _make_parser()
    arguments, rest = parser.parse_known_args(argv)
    command: Callable[[argparse.Namespace, list[str]], None] = arguments.run
    try:
        command(arguments, rest)
    except KeyboardInterrupt:
        print("dynaconv: interrupted", file=sys.stderr)
        return 130
    except DynaconvError as error:
        if arguments.debug:
            raise
        print(f"dynaconv: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrainingDivergedError) else 2
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dynaconv", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train a network", allow_abbrev=False)
    train.add_argument("--recipe")
    train.add_argument("--out")
    train.add_argument("--resume")
    train.add_argument("--debug", action="store_true")
    for flag, target in SHORT.items():
        train.add_argument(flag, dest=target)
    train.set_defaults(run=_train)
    return parser


SHORT = {
    "--model": "model.name",
    "--data": "data.name",
    "--data-dir": "data.data_dir",
    "--epochs": "trainer.max_epochs",
    "--batch-size": "data.batch_size",
    "--lr": "model.lr",
    "--seed": "seed",
}


def _train(arguments: argparse.Namespace, rest: list[str]) -> None:
    from dynaconv.train.config import TrainConfig, load_recipe
    from dynaconv.train.console import ConsoleReport
    from dynaconv.train.run import fit, resume

    with ConsoleReport() as report:
        if arguments.resume:
            result = resume(arguments.resume, report=report, on_start=report.start)
        else:
            config = load_recipe(arguments.recipe) if arguments.recipe else TrainConfig()
            short = [f"--{key}={value}" for key in SHORT.values() if (value := getattr(arguments, key)) is not None]
            result = fit(config, out=arguments.out, overrides=[*short, *rest], report=report, on_start=report.start)
        summary = result.summary
        report.console.print(
            f"test accuracy {summary['test_accuracy']:.2%}, loss {summary['test_loss']:.4f}, "
            f"{summary['train_seconds']:.0f} s of training; everything is in {result.directory}"
        )


if __name__ == "__main__":
    sys.exit(main())
