"""``dynaconv demo``: train a static network and its dynamic twin on drawn letters, and compare them."""

import argparse
from typing import Any

from dynaconv.commands._arguments import add_out, add_seed, integer
from dynaconv.commands._shared import add_command
from dynaconv.errors import RunsFailedError


def add(commands: Any) -> None:
    """Add ``dynaconv demo``."""
    demo = add_command(
        commands, "demo", "train a static network and its dynamic twin on drawn letters and compare", run
    )
    add_out(demo, "folder of both runs; by default a new one under runs/", metavar="DIR", overwrite=False)
    demo.add_argument(
        "--epochs", metavar="N", type=integer(1), help="number of epochs of both runs; by default the recipe's"
    )
    add_seed(demo, "seed of both runs")


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
