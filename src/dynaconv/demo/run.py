"""Train both networks, measure them, and write all results to one folder."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from dynaconv.console import make_console
from dynaconv.demo.report import Pictures, write_report
from dynaconv.demo.result import DemoResult, NetworkResult, rich_table, write_table
from dynaconv.deployment import deploy
from dynaconv.errors import RunError, counted
from dynaconv.explain.coefficients import collect_coefficients
from dynaconv.explain.figures import class_coefficients, read_metrics, save, training_curves
from dynaconv.explain.movement import kernel_movement
from dynaconv.explain.report import software_facts
from dynaconv.measure.latency import Latency, measure_latency
from dynaconv.measure.profile import profile
from dynaconv.native import ready
from dynaconv.train.config import TrainConfig, check_seed, load_recipe, resolve
from dynaconv.train.data.module import ImageDataModule
from dynaconv.train.data.source import TensorImages
from dynaconv.train.folders import make_free_folder
from dynaconv.train.options import choice_text
from dynaconv.train.progress import RunProgress
from dynaconv.train.run import RunResult, fit
from dynaconv.train.threads import threads

RECIPE = "glyphs-mini"
MODELS = {"static": "static_resnet10", "DCD": "dcd_resnet10"}
FOLDERS = {"static": "static", "DCD": "dcd"}
DCD_OPTIONS = {"hidden_norm": None, "weight_norm": False}
"""No normalisation of hidden vectors and weights. High learning rates without gradient clipping need it; this recipe
clips gradients, and its run is short."""
DEFAULT_OUT = Path("runs/demo")
THREADS = 1
"""One thread trains networks of this size about as fast as two, and much faster if other processes are running."""


def run_demo(
    out: str | Path | None = None,
    *,
    epochs: int | None = None,
    seed: int = 0,
    console: Console | None = None,
    command: str | None = None,
) -> DemoResult:
    """Train a static network and its DCD twin on letters of matplotlib's fonts, compare them, and write a report.

    Args:
        out: Run folder, by default `runs/demo`. If it is not empty, the next free name beside it is used.
        epochs: Number of epochs of both trainings; by default the recipe's.
        seed: Seed of both networks' weights, the order of the pictures and their augmentation.
        console: Console for progress and the table; by default standard output.
        command: Command that the report names; by default that of this process.

    Raises:
        RunError: The number of epochs is not positive, the seed is negative, or the folder cannot be created.
        DynaconvError: A training failed; its files stay in its folder.
        RunStopped: The process received Ctrl+C, SIGTERM, SIGHUP or SIGUSR1 during a training; its run is saved.
    """
    if epochs is not None and epochs < 1:
        raise RunError(f"`epochs` must be at least 1; got {epochs}.")
    check_seed(seed)
    console = console or make_console()
    command = command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    start = time.perf_counter()
    folder = _make_folder(Path(out) if out is not None else DEFAULT_OUT, console)
    recipe = load_recipe(RECIPE).with_changes(seed=seed, trainer__logger=False, trainer__accelerator="cpu")
    if epochs is not None:
        recipe = recipe.with_changes(trainer__max_epochs=epochs)
    with threads(THREADS):
        trained = _train_twins(recipe, folder, console)
        result, measurements = _measure(trained, recipe, folder)
    _write_pictures(result, measurements)
    write_table(result.networks, folder / "table.csv")
    report = write_report(
        result,
        facts_of_run=_facts(recipe, command, time.perf_counter() - start, measurements.data),
        latency_conditions=measurements.eager.conditions,
        coefficients=measurements.coefficients,
        pictures=measurements.pictures,
    )
    _print_end(result, measurements.eager, report, console, time.perf_counter() - start)
    return result


class _Measurements:
    """Measurements of the trained networks for the report."""

    def __init__(self, models: dict[str, nn.Module], data: ImageDataModule) -> None:
        self.data = data
        size = (data.in_channels, data.image_size, data.image_size)
        self.eager = measure_latency(models, size, rounds=60, warmup=10)
        deployed = {title: deploy(model, backend="native") for title, model in models.items()}
        self.native = measure_latency(deployed, size, rounds=200, warmup=20) if ready() else None
        self.movement = kernel_movement(models["DCD"], data.test_dataloader())
        self.coefficients = collect_coefficients(models["DCD"], data.test_dataloader(), num_classes=data.num_classes)
        test = data.source.test
        assert isinstance(test, TensorImages)
        static, dynamic = (_probabilities(models[title], data) for title in MODELS)
        self.pictures = Pictures(
            images=test.images, classes=test.targets, class_names=data.class_names, probabilities=(static, dynamic)
        )


def _train_twins(recipe: TrainConfig, folder: Path, console: Console) -> dict[str, RunResult]:
    trained: dict[str, RunResult] = {}
    console.print(
        f"Training {' and '.join(MODELS.values())} on {recipe.data['name']}: the same recipe, seed {recipe.seed}.",
        soft_wrap=True,
    )
    width = max(map(len, MODELS))
    for title, name in MODELS.items():
        options = dict(recipe.model["model_options"])
        if name.startswith("dcd"):
            options["family_options"] = DCD_OPTIONS
        trained[title] = fit(
            recipe.with_changes(model__name=name, model__model_options=options),
            out=folder / FOLDERS[title],
            callbacks=[RunProgress(console, title=f"{title:{width}}  ")],
        )
    return trained


def _measure(trained: dict[str, RunResult], recipe: TrainConfig, folder: Path) -> tuple[DemoResult, _Measurements]:
    data = ImageDataModule(**recipe.data)
    models = {title: run.model.eval() for title, run in trained.items()}
    size = (data.in_channels, data.image_size, data.image_size)
    measurements = _Measurements(models, data)
    networks = []
    for (title, run), probabilities in zip(trained.items(), measurements.pictures.probabilities, strict=True):
        cost = profile(models[title], size)
        networks.append(
            NetworkResult(
                title=title,
                model=MODELS[title],
                params=cost.params,
                macs=cost.macs,
                train_seconds=run.summary["train_seconds"],
                eager=measurements.eager[title],
                native=measurements.native[title] if measurements.native is not None else None,
                correct=tuple((probabilities.argmax(1) == measurements.pictures.classes).tolist()),
            )
        )
    static, dynamic = networks
    return DemoResult(folder=folder, static=static, dynamic=dynamic, movement=measurements.movement), measurements


@torch.inference_mode()
def _probabilities(model: nn.Module, data: ImageDataModule) -> Tensor:
    return torch.cat([model(images).softmax(1) for images, _ in data.test_dataloader()])


def _write_pictures(result: DemoResult, measurements: _Measurements) -> None:
    runs = {title: read_metrics(result.folder / name / "metrics.csv") for title, name in FOLDERS.items()}
    save(training_curves(runs), result.folder / "curves.png")
    names = measurements.pictures.class_names
    save(class_coefficients(measurements.coefficients, names), result.folder / "coefficients.png")


def _facts(recipe: TrainConfig, command: str, seconds: float, data: ImageDataModule) -> dict[str, str]:
    model = resolve(recipe).model
    optimizer, schedule = (choice_text(choice.as_dict()) for choice in (model.optimizer, model.schedule))
    counts = [len(split) for split in (data.train_split, data.val_split or (), data.source.test)]
    return {
        "Command": command,
        "Data": (
            f"{data.num_classes} letters and digits in matplotlib's fonts, turned, bent, inverted and covered with "
            f"noise, {data.image_size} x {data.image_size} pixels: {counts[0]:,} per epoch, each used once; "
            f"{counts[1]:,} for validation and {counts[2]:,} for the result, both in fonts held out from training"
        ),
        "Networks": f"{', '.join(MODELS.values())}, the latter with "
        + ", ".join(f"{key}={value!r}" for key, value in DCD_OPTIONS.items()),
        "Recipe": (
            f"{RECIPE}: {recipe.trainer['max_epochs']} epochs, batch {recipe.data['batch_size']}, "
            f"{optimizer}, learning rate {model.lr:g}, {schedule}, "
            f"weight decay {model.weight_decay:g}, label smoothing {model.label_smoothing:g}"
        ),
        "Weights": "of the epoch with the best validation accuracy; the held-out pictures are not used for any choice",
        "Seed": str(recipe.seed),
        "Machine": f"{platform.machine()}, {counted(THREADS, 'thread')}",
        **software_facts("torch", "timm", "lightning"),
        "Took": f"{seconds:.0f} seconds in total",
    }


def _print_end(result: DemoResult, latency: Latency, report: Path, console: Console, seconds: float) -> None:
    console.print()
    console.print(rich_table(result, caption=f"Latency: {latency.conditions}."))
    console.print(result.verdict())
    console.print(result.movement_sentence())
    console.print(f"Took {seconds:.0f} s. Open the report in a browser:")
    console.print(str(report.resolve()), soft_wrap=True)


def _make_folder(out: Path, console: Console) -> Path:
    """Return a new folder: `out`, or the next free name beside it if `out` is not empty."""
    out = out.expanduser()
    try:
        if out.is_dir() and not any(out.iterdir()):
            return out
        folder = make_free_folder(out)
    except OSError as error:
        raise RunError(f"cannot create the run folder {out}: {error.strerror}.") from error
    if folder != out:
        console.print(f"{out} already exists; this run is written to {folder}.", soft_wrap=True)
    return folder
