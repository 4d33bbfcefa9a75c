"""``dynaconv demo``: train a static network and its dynamic twin on drawn letters, and compare them."""

import argparse
from pathlib import Path
from typing import Any

from dynaconv.commands._shared import add_command
from dynaconv.errors import RunsFailedError


def add(commands: Any) -> None:
    """Add ``dynaconv demo``."""
    demo = add_command(
        commands, "demo", "train a static network and its dynamic twin on drawn letters and compare", run
    )
    demo.add_argument("--out", metavar="DIR", type=Path, help="run folder; by default a new one under runs/")
    demo.add_argument("--epochs", metavar="N", type=int, help="number of epochs of both runs; by default the recipe's")
    demo.add_argument("--seed", metavar="N", type=int, default=0, help="seed of both runs")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Train the static network and its dynamic twin."""
    from dynaconv.demo import run_demo
    from dynaconv.train.stopping import RunStopped

    try:
        run_demo(out=arguments.out, epochs=arguments.epochs, seed=arguments.seed)
    except RunStopped as stopped:
        message = (
            f"{stopped}; a demonstration does not go on from there: start it again, or finish this network alone with "
            f"`dynaconv train --resume {stopped.directory}`."
        )
        raise (KeyboardInterrupt if stopped.signal == "SIGINT" else RunsFailedError)(message) from None
