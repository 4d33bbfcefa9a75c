"""``dynaconv advise``: what a DCD network is likely to gain over a trained static one."""

import argparse
from pathlib import Path
from typing import Any

from dynaconv.commands import _arguments as shared
from dynaconv.commands._shared import add_command
from dynaconv.errors import RunError
from dynaconv.files import write_json

_EPILOG = "The prediction is fitted on the studies of docs/does-it-pay.md, which say what it is worth."


def add(commands: Any) -> None:
    """Add ``dynaconv advise``."""
    command = add_command(commands, "advise", "predict what DCD gains over a trained static network", run, _EPILOG)
    shared.add_checkpoint(command)
    shared.add_json(command, "the prediction")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Print the prediction for the network of a run folder."""
    from dynaconv.study.advice import advise, read_settings

    folder = Path(arguments.checkpoint).expanduser()
    loss, epoch, options = _training(folder)
    advice = advise(loss, options["num_classes"], options["label_smoothing"])
    low, high = advice.gain - advice.error, advice.gain + advice.error
    print(
        f"The training loss of epoch {epoch} is {loss:.3f}, {advice.excess:.2f} nats above its floor. A DCD network of "
        f"the same layout is likely to gain {low:+.1f} to {high:+.1f} points of test accuracy."
    )
    if not advice.known:
        print("No static network of the studies has so high a loss: the prediction goes beyond them.")
    for title, name in (
        ("parameters", "parameters"),
        ("latency, native kernels", "latency"),
        ("training time", "time"),
    ):
        found = [value for each in read_settings() if (value := getattr(each, name)) is not None]
        print(
            f"Against a static network of its {title}, the studies found {min(found):+.1f} to {max(found):+.1f} points "
            f"in {len(found)} settings."
        )
    if arguments.json is not None:
        from dataclasses import asdict

        write_json(arguments.json, {"train_loss": loss, "epoch": epoch, **asdict(advice)})


def _training(folder: Path) -> tuple[float, int, dict[str, Any]]:
    """Return the training loss of a run's last epoch, the epoch, and what its floor depends on.

    Raises:
        RunError: It is no run folder, the run has no complete epoch, its network is dynamic, or its images are mixed.
    """
    import csv

    from dynaconv.measure.modules import is_dynamic
    from dynaconv.train.checkpoint import load_trained
    from dynaconv.train.config import load_recipe, resolve
    from dynaconv.train.folders import CONFIG_FILE, METRICS_FILE

    if not (folder / CONFIG_FILE).is_file():
        raise RunError(f"{folder} is not a run folder: it has no {CONFIG_FILE}; train the static network first.")
    model, metadata = load_trained(folder)
    if any(is_dynamic(module) for module in model.modules()):
        raise RunError(f"{metadata['model']} is dynamic already; give a run of its static network.")
    options = resolve(load_recipe(folder / CONFIG_FILE)).model
    if options.mix is not None:
        raise RunError(
            "the training loss of mixed images has no fixed floor; train without model.mix, and give that run."
        )
    try:
        with (folder / METRICS_FILE).open(encoding="utf-8") as file:
            last = list(csv.DictReader(file))[-1]
        loss, epoch = float(last["train_loss"]), int(last["epoch"])
    except (OSError, IndexError, KeyError, ValueError) as error:
        raise RunError(f"{folder} has no {METRICS_FILE} with a complete epoch; go on with its training.") from error
    return loss, epoch, {"num_classes": metadata["num_classes"], "label_smoothing": options.label_smoothing}
