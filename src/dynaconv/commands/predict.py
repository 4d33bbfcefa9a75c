"""``dynaconv predict``: classify image files."""

import argparse
import sys
from typing import Any

from dynaconv.commands._arguments import add_checkpoint, add_json, integer
from dynaconv.commands._shared import add_command
from dynaconv.files import write_json


def add(commands: Any) -> None:
    """Add ``dynaconv predict``."""
    command = add_command(commands, "predict", "classify image files with a trained network", run)
    add_checkpoint(command)
    command.add_argument("images", metavar="IMAGE", nargs="+", help="image files, folders, or quoted patterns")
    command.add_argument("--top", metavar="N", type=integer(1), default=5, help="number of classes to print (5)")
    add_json(command, "the result")


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Print the most likely classes of each image, and return 1 if an image cannot be read."""
    from dynaconv.errors import DataError
    from dynaconv.train.checkpoint import load_trained
    from dynaconv.train.predict import find_images, predict

    failures: list[str] = []

    def note(error: DataError) -> None:
        failures.append(str(error))
        print(f"dynaconv: {error}", file=sys.stderr)

    model, metadata = load_trained(arguments.checkpoint)
    images = find_images(arguments.images, on_error=note)
    predictions = predict(model, metadata, images, top=arguments.top, on_error=note)
    for prediction in predictions:
        print(prediction.image)
        for name, probability in prediction.classes:
            print(f"  {probability:7.2%}  {name}")
    if arguments.json is not None:
        facts = {"checkpoint": arguments.checkpoint, "model": metadata["model"], "errors": failures}
        write_json(arguments.json, {**facts, "predictions": [prediction.to_dict() for prediction in predictions]})
    return 1 if failures else 0
