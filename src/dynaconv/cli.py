"""The command line: ``dynaconv demo|train|eval|predict``.

Heavy packages are imported by the command that needs them. What a user can mend is one sentence on standard error and
exit code 2; exit code 1 means that a run failed, 130 that it was interrupted, 141 that nobody reads the output.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dynaconv.errors import DynaconvError, RunError, TrainingDivergedError

if TYPE_CHECKING:
    from rich.console import Console

    from dynaconv.train.evaluate import Evaluation
    from dynaconv.train.run import RunResult

RUNS = Path("runs")
SHORT_FLAGS = {
    "--data": ("data.name", "NAME", "digits, fashion-mnist, a path to an image folder, or a timm data set name"),
    "--data-dir": ("data.data_dir", "DIR", "where the data lies"),
    "--model": ("model.name", "NAME", "a timm model name, dynaconv's included, such as dcd_mobilenetv2_050"),
    "--epochs": ("trainer.max_epochs", "N", "length of the run; without a recipe 30"),
    "--batch-size": ("data.batch_size", "N", "images a step on each device"),
    "--lr": ("model.lr", "RATE", "peak learning rate"),
    "--seed": ("seed", "N", "seed of weights, image order, augmentation and dropout"),
}
_TRAIN_EPILOG = (
    "Every argument of the data module, the Lightning module and the Lightning Trainer can be set as well, with "
    "--data.KEY, --model.KEY and --trainer.KEY: `dynaconv train --help-all` lists them. The flags win over the recipe."
)
# Imported name of a package -> the extra that brings it.
_EXTRAS = {
    "timm": "models",
    "torchvision": "models",
    "safetensors": "models",
    "lightning": "train",
    "jsonargparse": "train",
    "torchmetrics": "train",
    "tensorboard": "train",
    "rich": "train",
    "matplotlib": "train",
    "sklearn": "train",
    "PIL": "train",
}


class _Parser(argparse.ArgumentParser):
    """Raises what it finds wrong, so that every mistake is told in the same way."""

    def error(self, message: str) -> NoReturn:
        raise RunError(f"{message}; see `{self.prog} --help`.")


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from dynaconv import __version__

        print(f"dynaconv {__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; by default this process's.

    Returns:
        The exit code: 0, 1 (a run failed), 2 (a mistake in what was given), 130 (interrupted) or 141 (the reader of
        the output went away, as after ``| head``).
    """
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(given)
        # Here, where a reader that went away can be told from a failure, rather than when the interpreter ends.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_output()
        return 141
    except KeyboardInterrupt:
        print("dynaconv: interrupted.", file=sys.stderr)
        return 130
    except (DynaconvError, ModuleNotFoundError, OSError) as error:
        if "--debug" in given:
            raise
        message, code = _explain(error)
        if message is None:
            raise
        print(f"dynaconv: {' '.join(message.split())}", file=sys.stderr)
        return code


def _drop_output() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not complain about it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _explain(error: Exception) -> tuple[str | None, int]:
    """Return the sentence for an error and its exit code; no sentence for one that is a fault of the program."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(package)
        if extra is None:
            return None, 1
        return f'this command needs {package}, which is not installed; pip install "dynaconv[train]".', 2
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"the system refused: {error.strerror or error}{where}.", 1
    return str(error), 1 if isinstance(error, TrainingDivergedError) else 2


def _run(given: list[str]) -> int:
    parser = make_parser()
    if not given:
        parser.print_help(sys.stderr)
        return 2
    arguments, rest = parser.parse_known_args(given)
    if rest and not arguments.passes_on:
        raise RunError(f"unknown argument {rest[0]!r}; see `dynaconv {arguments.command} --help`.")
    command: Callable[[argparse.Namespace, list[str]], None] = arguments.run
    command(arguments, rest)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; a test pins its flags."""
    parser = _Parser(
        prog="dynaconv",
        description="Convolutional networks whose kernels depend on the input.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_demo(commands)
    _add_train(commands)
    _add_eval(commands)
    _add_predict(commands)
    return parser


def _add_command(
    commands: Any, name: str, help_line: str, run: Callable[[argparse.Namespace, list[str]], None], epilog: str = ""
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help_line, description=f"{help_line[0].upper()}{help_line[1:]}.", epilog=epilog, allow_abbrev=False
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(run=run, passes_on=False)
    return command


def _add_demo(commands: Any) -> None:
    demo = _add_command(commands, "demo", "train a static network and its dynamic twin on digits and compare", _demo)
    demo.add_argument("--out", metavar="DIR", type=Path, help="run folder; by default a fresh one under runs/")
    demo.add_argument("--epochs", metavar="N", type=int, help="length of both trainings; by default the recipe's")
    demo.add_argument("--seed", metavar="N", type=int, default=0, help="seed of both trainings")


def _add_train(commands: Any) -> None:
    train = _add_command(commands, "train", "train a network by a recipe", _train, _TRAIN_EPILOG)
    train.set_defaults(passes_on=True)
    train.add_argument("--recipe", metavar="NAME|FILE.yaml", help="a shipped recipe's name, or a file")
    train.add_argument("--out", metavar="DIR", help="run folder; by default a fresh one under runs/")
    train.add_argument("--resume", metavar="RUN", help="continue an interrupted run in its folder")
    for flag, (target, metavar, text) in SHORT_FLAGS.items():
        train.add_argument(flag, dest=target, metavar=metavar, help=text)
    train.add_argument("--list-recipes", action="store_true", help="print the names of the shipped recipes and exit")
    train.add_argument("--help-all", action="store_true", help="print every argument and exit")


def _add_eval(commands: Any) -> None:
    command = _add_command(commands, "eval", "test a trained network", _eval)
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="a run folder, model.safetensors or .ckpt")
    command.add_argument("--data", metavar="NAME", help="a data set; by default the one it was trained on")
    command.add_argument("--data-dir", metavar="DIR", help="where the data lies")
    command.add_argument("--split", choices=("train", "val", "test"), default="test", help="which part of the data")
    command.add_argument("--batch-size", metavar="N", type=int, default=256, help="images a step")
    command.add_argument("--device", default="auto", help="cpu, cuda, ...; by default the fastest there is")
    command.add_argument("--json", metavar="FILE", type=Path, help="write the result as JSON too")


def _add_predict(commands: Any) -> None:
    command = _add_command(commands, "predict", "classify image files with a trained network", _predict)
    command.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    command.add_argument(
        "--checkpoint",
        metavar="RUN",
        help="a run folder, model.safetensors or .ckpt; by default the newest finished run under runs/",
    )
    command.add_argument("--top", metavar="N", type=int, default=5, help="how many classes to print")
    command.add_argument("--json", metavar="FILE", type=Path, help="write the result as JSON too")


def _demo(arguments: argparse.Namespace, rest: list[str]) -> None:
    from dynaconv.demo import run_demo

    run_demo(out=arguments.out, epochs=arguments.epochs, seed=arguments.seed)


def _train(arguments: argparse.Namespace, rest: list[str]) -> None:
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
        if overrides or arguments.recipe or arguments.out:
            raise RunError("--resume continues a run as it was configured; leave the other arguments out.")
        config = TrainConfig()
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
    """Refuse flags that do not exist and words that no flag takes; the values are checked with the configuration."""
    from dynaconv.train.config import make_parser, unknown_flag

    known = {flag for action in make_parser()._actions for flag in action.option_strings}
    # Below any other known key lie those of a dictionary or class, such as --model.model_options.drop_rate.
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

    folders: list[Path] = []
    with ConsoleReport() as report:

        def start(folder: Path, facts: dict[str, Any]) -> None:
            folders.append(folder)
            report.start(folder, facts)

        try:
            if arguments.resume:
                result = resume(arguments.resume, report=report, on_start=start)
            else:
                result = fit(config, out=arguments.out, overrides=overrides, report=report, on_start=start)
        except KeyboardInterrupt:
            if folders and (folders[0] / "checkpoints" / "last.ckpt").is_file():
                print(f"dynaconv: continue with `dynaconv train --resume {folders[0]}`", file=sys.stderr)
            raise
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


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Only using a device shows whether it is there.
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RunError(f"there is no device {name!r} here; pass --device cpu.") from error


def _eval(arguments: argparse.Namespace, rest: list[str]) -> None:
    from dynaconv.train.checkpoint import load_trained
    from dynaconv.train.console import make_console
    from dynaconv.train.retest import retest

    _check_parent(arguments.json)
    model, metadata = load_trained(arguments.checkpoint)
    result = retest(
        model,
        metadata,
        data=arguments.data,
        data_dir=arguments.data_dir,
        split=arguments.split,
        batch_size=arguments.batch_size,
        device=_device(arguments.device),
    )
    data = arguments.data or metadata["data"]["name"]
    _print_evaluation(make_console(), result, f"{metadata['model']} on {data}, {arguments.split} images")
    if arguments.json is not None:
        from dynaconv.train.files import write_json

        facts = {"checkpoint": arguments.checkpoint, "model": metadata["model"], "data": data}
        write_json(arguments.json, {**facts, "split": arguments.split, **result.to_dict()})


def _print_evaluation(console: "Console", result: "Evaluation", title: str) -> None:
    from rich.table import Table

    console.print(title)
    table = Table("class", "accuracy")
    table.columns[1].justify = "right"
    for name, share in result.per_class.items():
        table.add_row(name, "no images" if share is None else f"{share:.2%}")
    table.add_section()
    table.add_row(f"all {result.images:,} images", f"{result.accuracy:.2%}")
    table.add_row("among the likeliest five", f"{result.top5:.2%}")
    table.add_row("cross-entropy", f"{result.loss:.4f}")
    console.print(table)


def _predict(arguments: argparse.Namespace, rest: list[str]) -> None:
    from dynaconv.train.checkpoint import load_trained
    from dynaconv.train.predict import predict

    _check_parent(arguments.json)
    if arguments.top < 1:
        raise RunError(f"--top counts classes, at least 1; got {arguments.top}.")
    checkpoint = arguments.checkpoint or _newest_run()
    model, metadata = load_trained(checkpoint)
    predictions = predict(model, metadata, arguments.images, top=arguments.top)
    for prediction in predictions:
        print(prediction.image)
        for name, probability in prediction.classes:
            print(f"  {probability:7.2%}  {name}")
    if arguments.json is not None:
        from dynaconv.train.files import write_json

        facts = {"checkpoint": str(checkpoint), "model": metadata["model"]}
        write_json(arguments.json, {**facts, "predictions": [prediction.to_dict() for prediction in predictions]})


def _newest_run() -> Path:
    finished = sorted(RUNS.glob("**/model.safetensors"), key=lambda path: path.stat().st_mtime)
    if not finished:
        raise RunError(f"there is no finished run under {RUNS}/; pass --checkpoint RUN.")
    newest = finished[-1].parent
    print(f"with the newest run, {newest}", file=sys.stderr)
    return newest


def _check_parent(file: Path | None) -> None:
    if file is not None and file.is_dir():
        raise RunError(f"cannot write {file}: it is a folder; name a file.")
    if file is not None and not file.parent.is_dir():
        raise RunError(f"cannot write {file}: there is no folder {file.parent}.")


if __name__ == "__main__":
    sys.exit(main())
