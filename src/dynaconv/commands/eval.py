"""``dynaconv eval``: test a trained network."""

import argparse
from typing import TYPE_CHECKING, Any

from dynaconv.commands import _arguments as shared
from dynaconv.commands._shared import add_command
from dynaconv.files import write_json

if TYPE_CHECKING:
    from rich.console import Console

    from dynaconv.train.evaluate import Evaluation


def add(commands: Any) -> None:
    """Add ``dynaconv eval``."""
    command = add_command(commands, "eval", "test a trained network", run)
    shared.add_checkpoint(command)
    shared.add_data(command)
    shared.add_split(command)
    shared.add_batch_size(command, 256)
    shared.add_device(command)
    shared.add_json(command, "the result")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Test a network on one split of a data set, and print the accuracy of each class."""
    from dynaconv.console import make_console
    from dynaconv.train.checkpoint import load_trained
    from dynaconv.train.checkpoint_evaluation import evaluate_checkpoint

    model, metadata = load_trained(arguments.checkpoint)
    result = evaluate_checkpoint(
        model,
        metadata,
        data=arguments.data,
        data_dir=arguments.data_dir,
        split=arguments.split,
        batch_size=arguments.batch_size,
        device=shared.find_device(arguments.device),
    )
    data = arguments.data or metadata["data"]["name"]
    _print_evaluation(make_console(), result, f"{metadata['model']} on {data}, {arguments.split} images")
    if arguments.json is not None:
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
