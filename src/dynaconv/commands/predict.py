"""``dynaconv predict``: classify image files."""

import argparse
import sys
from pathlib import Path
from typing import Any

from dynaconv.commands._shared import add_command, add_output
from dynaconv.errors import RunError

RUNS = Path("runs")
"""Folder that is searched for the newest run."""


def add(commands: Any) -> None:
    """Add ``dynaconv predict``."""
    command = add_command(commands, "predict", "classify image files with a trained network", run)
    command.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    command.add_argument(
        "--checkpoint",
        metavar="RUN",
        help="a run folder, model.safetensors or .ckpt; by default the newest finished run under runs/",
    )
    command.add_argument("--top", metavar="N", type=int, default=5, help="number of classes to print")
    add_output(command, "--json", "also write the result as JSON")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Print the most likely classes of each image."""
    from dynaconv.train.checkpoint import load_trained
    from dynaconv.train.predict import predict

    if arguments.top < 1:
        raise RunError(f"--top is a number of classes, at least 1; got {arguments.top}.")
    checkpoint = arguments.checkpoint or _newest_run()
    model, metadata = load_trained(checkpoint)
    predictions = predict(model, metadata, arguments.images, top=arguments.top)
    for prediction in predictions:
        print(prediction.image)
        for name, probability in prediction.classes:
            print(f"  {probability:7.2%}  {name}")
    if arguments.json is not None:
        from dynaconv.files import write_json

        facts = {"checkpoint": str(checkpoint), "model": metadata["model"]}
        write_json(arguments.json, {**facts, "predictions": [prediction.to_dict() for prediction in predictions]})


def _newest_run() -> Path:
    finished = sorted(RUNS.glob("**/model.safetensors"), key=lambda path: path.stat().st_mtime)
    if not finished:
        raise RunError(f"there is no finished run under {RUNS}/; pass --checkpoint RUN.")
    newest = finished[-1].parent
    print(f"using the newest run, {newest}", file=sys.stderr)
    return newest
