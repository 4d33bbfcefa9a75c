"""One training run, from a configuration to a folder with everything it left."""

import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import nn

from dynaconv import __version__
from dynaconv.errors import RunError
from dynaconv.train.callbacks import (
    BEST,
    LAST,
    EpochTable,
    ProgressEvent,
    ReportProgress,
    SeedEachEpoch,
    StopOnDivergence,
    WholeCheckpoints,
    checkpoint_callbacks,
)
from dynaconv.train.checkpoint import (
    CHECKPOINT_FOLDER,
    MODEL_FILE,
    evaluated_state,
    read_lightning_checkpoint,
    save_trained,
)
from dynaconv.train.config import TrainConfig, load_recipe, make_parser, resolve, to_yaml
from dynaconv.train.curves import draw_curves
from dynaconv.train.data.batches import one_sentence
from dynaconv.train.data.module import ImageDataModule
from dynaconv.train.evaluate import evaluate
from dynaconv.train.files import write_json, write_text
from dynaconv.train.folders import claim_folder
from dynaconv.train.module import ClassificationModule
from dynaconv.train.quiet import quiet_lightning

CONFIG_FILE, METRICS_FILE, SUMMARY_FILE, CURVES_FILE = "config.yaml", "metrics.csv", "summary.json", "curves.png"
Report = Callable[[ProgressEvent], None]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a finished run left.

    Attributes:
        directory: Its folder.
        summary: What ``summary.json`` holds.
        model: The network with the weights that were tested, in eval mode, on the CPU.
    """

    directory: Path
    summary: dict[str, Any]
    model: nn.Module


def fit(
    config: TrainConfig,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    report: Report | None = None,
    on_start: Callable[[Path, dict[str, Any]], None] | None = None,
    callbacks: Sequence[Callback] = (),
    command: str | None = None,
) -> RunResult:
    """Train a network, test it, and keep everything in a fresh folder.

    Args:
        config: What to do.
        out: The folder, which must not exist or be empty; by default a fresh one under ``runs/``.
        overrides: Command-line arguments that change ``config``, such as ``["--trainer.max_epochs=3"]``.
        report: Called after every batch and epoch.
        on_start: Called once, before the first step, with the folder and facts about the run.
        callbacks: Further Lightning callbacks.
        command: The command to record; by default this process's own.

    Returns:
        The folder, the summary and the network.

    Raises:
        DynaconvError: The configuration, the data or the folder does not fit, or the loss left the finite numbers.
    """
    resolved = resolve(config, overrides)
    seed_everything(resolved.seed, workers=True, verbose=False)
    built = _build(resolved)
    directory = claim_folder(Path(out) if out else None, data=resolved.data.name, model=resolved.model.name)
    try:
        run = _Run(built, directory, report, on_start, callbacks, command, seed=resolved.seed)
    except RunError:
        # Nothing has been written yet, and the corrected command should find the name free.
        directory.rmdir()
        raise
    write_text(directory / CONFIG_FILE, to_yaml(resolved))
    return run.execute(resume=None)


def resume(
    directory: str | Path,
    *,
    report: Report | None = None,
    on_start: Callable[[Path, dict[str, Any]], None] | None = None,
    callbacks: Sequence[Callback] = (),
    command: str | None = None,
) -> RunResult:
    """Continue an interrupted run in its own folder, from its last checkpoint.

    Args:
        directory: The run's folder.
        report, on_start, callbacks, command: As for `fit`.

    Raises:
        DynaconvError: It is not a run folder, it has no checkpoint, or the run is finished.
    """
    directory = Path(directory).expanduser()
    config_file, last = directory / CONFIG_FILE, directory / CHECKPOINT_FOLDER / LAST
    if not config_file.is_file():
        raise RunError(f"{directory} is not a run folder: it has no {CONFIG_FILE}.")
    if (directory / SUMMARY_FILE).is_file():
        raise RunError(f"the run in {directory} is finished; start another with --out.")
    if not last.is_file():
        raise RunError(f"the run in {directory} has no {CHECKPOINT_FOLDER}/{LAST}: no epoch was finished.")
    epochs_done = int(read_lightning_checkpoint(last)["epoch"]) + 1
    resolved = resolve(load_recipe(config_file))
    seed_everything(resolved.seed, workers=True, verbose=False)
    built = _build(resolved)
    built.data.start_epoch = epochs_done
    run = _Run(built, directory, report, on_start, callbacks, command, seed=resolved.seed)
    return run.execute(resume=last)


@dataclass(frozen=True)
class _Built:
    data: ImageDataModule
    module: ClassificationModule
    trainer_options: dict[str, Any]
    data_options: dict[str, Any]


def _build(resolved: Any) -> _Built:
    built = make_parser().instantiate(resolved)
    options = resolved.data.as_dict()
    return _Built(built.data, built.model, built.trainer.as_dict(), options)


class _Run:
    def __init__(
        self,
        built: _Built,
        directory: Path,
        report: Report | None,
        on_start: Callable[[Path, dict[str, Any]], None] | None,
        callbacks: Sequence[Callback],
        command: str | None,
        *,
        seed: int,
    ) -> None:
        self.data, self.module = built.data, built.module
        self.directory = directory
        self.seed = seed
        self.command = command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        self.on_start = on_start
        self.table = EpochTable(directory / METRICS_FILE)
        self.data_options = built.data_options
        self.module.metadata = self._metadata()
        self.trainer = self._make_trainer(built.trainer_options, report, callbacks)

    def _metadata(self) -> dict[str, Any]:
        hparams, data = self.module.hparams, self.data
        return {
            "model": hparams["name"],
            "model_options": dict(hparams["model_options"] or {}),
            "num_classes": data.num_classes,
            "class_names": list(data.class_names),
            "in_channels": data.in_channels,
            "image_size": data.image_size,
            "mean": list(data.mean),
            "std": list(data.std),
            "style": data.style,
            "crop_pct": data.crop_pct,
            "interpolation": data.interpolation,
            "data": {key: value for key, value in self.data_options.items() if _is_plain(value)},
            "dynaconv_version": __version__,
        }

    def _make_trainer(self, options: dict[str, Any], report: Report | None, callbacks: Sequence[Callback]) -> Trainer:
        options = {key: value for key, value in options.items() if value is not None}
        if options.get("max_epochs") is None:
            raise RunError("the run has no length; pass --epochs N, or trainer.max_epochs in the recipe.")
        if not self.data.has_validation:
            options["limit_val_batches"] = 0
        own: list[Callback] = [SeedEachEpoch(self.seed), self.table, StopOnDivergence()]
        if report is not None:
            own.append(ReportProgress(report, self.table))
        own += checkpoint_callbacks(self.directory / CHECKPOINT_FOLDER, monitor=self.data.has_validation)
        given = _as_list(options.pop("callbacks", None))
        plugins = [*_as_list(options.pop("plugins", None)), WholeCheckpoints()]
        if "logger" not in options or options["logger"] is True:
            from lightning.pytorch.loggers import TensorBoardLogger

            options["logger"] = TensorBoardLogger(str(self.directory), name="", version="tensorboard")
        try:
            with quiet_lightning():
                return Trainer(
                    **options,
                    callbacks=[*own, *given, *callbacks],
                    plugins=plugins,
                    default_root_dir=self.directory,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                )
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise RunError(f"the Trainer does not take its options: {' '.join(str(error).split())}") from error

    def execute(self, *, resume: Path | None) -> RunResult:
        facts = {
            "model": self.module.hparams["name"],
            "params": sum(parameter.numel() for parameter in self.module.model.parameters()),
            "train_images": _length(self.data.train_split),
            "val_images": _length(self.data.val_split),
            "test_images": _length(self.data.source.test),
            "epochs": self.trainer.max_epochs,
        }
        if self.on_start is not None and self.trainer.is_global_zero:
            self.on_start(self.directory, facts)
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            with quiet_lightning(), one_sentence():
                self.trainer.fit(self.module, datamodule=self.data, ckpt_path=resume, weights_only=True)
        except SystemExit:
            # Lightning turns Ctrl+C into an exit and leaves the signal switched off.
            signal.signal(signal.SIGINT, interrupt)
            raise KeyboardInterrupt from None
        return self._finish(facts)

    def _finish(self, facts: dict[str, Any]) -> RunResult:
        model = self.module.evaluated_model
        chosen = BEST if self.data.has_validation else LAST
        checkpoint = read_lightning_checkpoint(self.directory / CHECKPOINT_FOLDER / chosen)
        model.load_state_dict(evaluated_state(checkpoint["state_dict"]))
        device = self.trainer.strategy.root_device
        tested = evaluate(model.to(device), self.data.test_dataloader(), self.data.class_names, device=device)
        rows = self.table.rows
        metrics = {"test_accuracy": tested.accuracy, "test_loss": tested.loss, "test_top5": tested.top5}
        best = max((float(row["val_acc"]) for row in rows if row.get("val_acc") not in (None, "")), default=None)
        summary = {
            **facts,
            **metrics,
            "val_accuracy": best,
            "weights": {
                "checkpoint": chosen,
                "epoch": int(checkpoint["epoch"]) + 1,
                "ema": self.module.ema is not None,
            },
            "train_seconds": sum(float(row["seconds"]) for row in rows),
            "seed": self.seed,
            "data": self.data.name,
            "model_options": self.module.metadata["model_options"],
            "per_class": tested.per_class,
            "device": str(device),
            "threads": torch.get_num_threads(),
            "versions": _versions(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": self.command,
        }
        model = model.cpu().eval()
        if self.trainer.is_global_zero:
            save_trained(self.directory / MODEL_FILE, model, {**self.module.metadata, "metrics": metrics})
            draw_curves(self.directory / CURVES_FILE, rows, title=f"{facts['model']} on {self.data.name}")
            # Last, because a folder with a summary counts as finished.
            write_json(self.directory / SUMMARY_FILE, summary)
        return RunResult(directory=self.directory, summary=summary, model=model)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _length(split: Any) -> int | None:
    return len(split) if hasattr(split, "__len__") else None


def _versions() -> dict[str, str]:
    found = {"dynaconv": __version__, "python": sys.version.split()[0]}
    for package in ("torch", "torchvision", "timm", "lightning"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
