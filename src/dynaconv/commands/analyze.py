"""``dynaconv analyze``: analyse trained dynamic networks and write one report."""

import argparse
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynaconv.commands import _arguments as shared
from dynaconv.commands._shared import add_command
from dynaconv.errors import DynaconvError, RunError
from dynaconv.files import write_json, write_text
from dynaconv.progress import done, step

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from dynaconv.explain.analyze.result import NetworkAnalysis

SEED = 0
"""Seed of the choice of images."""


def add(commands: Any) -> None:
    """Add ``dynaconv analyze``."""
    command = add_command(commands, "analyze", "show what trained dynamic networks compute, as an HTML report", run)
    shared.add_checkpoint(command, several=True)
    shared.add_out(command, "the report to write, an HTML file; - for standard output", required=True)
    shared.add_data(command)
    shared.add_split(command)
    command.add_argument(
        "--images", metavar="N", type=shared.integer(1), default=1024, help="number of images, drawn at random"
    )
    shared.add_batch_size(command, 128)
    command.add_argument(
        "--layer", metavar="NAME", help="layer to show in detail; by default the one where classes differ most"
    )
    shared.add_device(command)
    shared.add_json(command, "every number")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Analyse one or several networks, and write the report."""
    from dynaconv.console import make_console
    from dynaconv.train.checkpoint import load_trained

    device = shared.find_device(arguments.device)
    loaded = [(path, *load_trained(path)) for path in arguments.checkpoints]
    for _, model, metadata in loaded:
        _check_dynamic(model, str(metadata["model"]), arguments.layer)
    console = make_console()
    titles = _titles([(path, str(metadata["model"])) for path, _, metadata in loaded])
    found = []
    for title, (_, model, metadata) in zip(titles, loaded, strict=True):
        console.print(f"{title}: coefficients, decomposition, freezing and gradients ...", soft_wrap=True, markup=False)
        found.append(_analyze(arguments, title, model.float().to(device), metadata))
    _write(arguments, found, _facts(arguments, [metadata for *_, metadata in loaded], found, str(device)))
    _print_summary(console, found)
    _print_rankings(console, found)
    console.print(f"everything is in {arguments.out}", soft_wrap=True, markup=False)


def _check_dynamic(model: "nn.Module", name: str, layer: str | None) -> None:
    from dynaconv.errors import nearest_names
    from dynaconv.measure.modules import is_dynamic

    names = [path for path, module in model.named_modules() if is_dynamic(module)]
    if not names:
        raise RunError(
            f"{name} has no dynamic layer to analyse; give a run of a dynamic network, such as dcd_..., dyconv_..., "
            f"condconv_... or odconv_...."
        )
    if layer is not None and layer not in names:
        raise RunError(
            f"{name} has no dynamic layer {layer!r}; the nearest names are {', '.join(nearest_names(layer, names))}."
        )


def _titles(runs: list[tuple[str, str]]) -> list[str]:
    """Return the names of the models, with the run's path if a model occurs several times."""
    models = [model for _, model in runs]
    return [model if models.count(model) == 1 else f"{model} ({path})" for path, model in runs]


def _analyze(
    arguments: argparse.Namespace, title: str, model: "nn.Module", metadata: dict[str, Any]
) -> "NetworkAnalysis":
    from dynaconv.explain.analyze.result import analyze_network
    from dynaconv.train.evaluate import evaluate

    device = next(model.parameters()).device
    batches = _batches(arguments, metadata)
    try:
        with step(f"{title}: accuracy"):
            accuracy = evaluate(model, batches, metadata["class_names"], device=device).accuracy
        return analyze_network(
            model,
            batches,
            metadata["class_names"],
            title=title,
            name=metadata["model"],
            accuracy=accuracy,
            layer=arguments.layer,
        )
    except DynaconvError:
        raise
    except ValueError as error:
        raise RunError(f"cannot analyse {title}: {str(error).rstrip('.')}.") from error


class _LimitedBatches:
    """The first images of a loader, which can be iterated repeatedly; errors of its workers become one sentence."""

    def __init__(self, loader: Iterable[Any], images: int) -> None:
        self.loader = loader
        self.images = images

    def __iter__(self) -> Iterator[Any]:
        from dynaconv.train.data.batches import one_sentence

        remaining = self.images
        with one_sentence():
            for images, classes in self.loader:
                yield images[:remaining], classes[:remaining]
                remaining -= len(images)
                done(self.images - max(0, remaining), self.images, "images")
                if remaining <= 0:
                    break


def _batches(arguments: argparse.Namespace, metadata: dict[str, Any]) -> _LimitedBatches:
    from dynaconv.train.checkpoint_evaluation import checkpoint_data, random_images

    module = checkpoint_data(metadata, arguments.data, arguments.data_dir, arguments.batch_size, None)
    split = random_images(module, arguments.split, arguments.images, seed=SEED)
    return _LimitedBatches(module.eval_loader(split), arguments.images)


def _write(arguments: argparse.Namespace, found: "list[NetworkAnalysis]", facts: dict[str, str]) -> None:
    from dynaconv.explain.analyze.report import report_html

    write_text(arguments.out, report_html(found, facts))
    if arguments.json is not None:
        write_json(arguments.json, {"run": facts, "networks": [network.to_dict() for network in found]})


def _print_summary(console: "Console", found: "list[NetworkAnalysis]") -> None:
    """Print the summary of the report, one column per network."""
    from rich.table import Table

    from dynaconv.explain.analyze.report import SUMMARY, summary_cells

    table = Table("", *[network.title for network in found])
    columns = [summary_cells(network)[1:] for network in found]
    for index, term in enumerate(SUMMARY[1:]):
        table.add_row(term, *[column[index] for column in columns])
    console.print(table)


def _print_rankings(console: "Console", found: "list[NetworkAnalysis]") -> None:
    """Print the dynamic layers of each network by what freezing them costs."""
    from rich.table import Table

    from dynaconv.explain.freezing import HEADER

    for network in found:
        table = Table(*HEADER, title=f"{network.title}: effect of freezing one layer at its mean kernel")
        for row in network.freezing.rows():
            table.add_row(*row)
        console.print(table)


def _facts(
    arguments: argparse.Namespace, metadata: list[dict[str, Any]], found: "list[NetworkAnalysis]", device: str
) -> dict[str, str]:
    from dynaconv.explain.report import software_facts

    data = dict.fromkeys(str(arguments.data or facts["data"]["name"]) for facts in metadata)
    images = sorted({network.statistics.images for network in found})
    measured = {network.suppression.images for network in found if network.suppression is not None}
    gradients = f", gradients of {max(measured):,} of them" if measured else ""
    return {
        "Command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "Checkpoints": ", ".join(map(str, arguments.checkpoints)),
        "Data": f"{', '.join(data)}, {arguments.split} images: {', '.join(f'{n:,}' for n in images)}{gradients}",
        "Seed": f"{SEED}, which chooses the images",
        "Machine": f"{platform.machine()}, {device}",
        **software_facts("torch", "timm"),
    }
