"""Executes a run: makes the Trainer, trains, tests the best weights and writes the results."""

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import IterableDataset

from dynaconv import __version__
from dynaconv.conversion.example import eval_mode
from dynaconv.errors import DataError, RunError
from dynaconv.explain.figures import read_metrics, save, training_curves
from dynaconv.files import write_json
from dynaconv.train.allocator import keep_freed_memory
from dynaconv.train.batch_scale import global_batch, scale_notes
from dynaconv.train.callbacks import EpochTable, ValidateLastEpoch
from dynaconv.train.checkpoint import (
    MODEL_FILE,
    evaluated_state,
    load_trained,
    read_lightning_checkpoint,
    save_trained,
)
from dynaconv.train.config import make_parser
from dynaconv.train.data.batches import one_sentence
from dynaconv.train.data.fingerprint import fingerprint
from dynaconv.train.data.module import ImageDataModule
from dynaconv.train.data.source import length_of
from dynaconv.train.evaluate import Evaluation, evaluate
from dynaconv.train.failures import explained, logger_installed
from dynaconv.train.folders import (
    BEST,
    CHECKPOINT_FOLDER,
    CORRUPT_FILE,
    CURVES_FILE,
    LAST,
    LOG_FOLDER,
    METRICS_FILE,
    SUMMARY_FILE,
    is_started_from_outside,
)
from dynaconv.train.lightning_messages import quiet_lightning
from dynaconv.train.module import ClassificationModule, check_options
from dynaconv.train.nonfinite import GuardFinite
from dynaconv.train.resume_checks import check_batch, check_data
from dynaconv.train.resume_state import ExactState
from dynaconv.train.saving import CheckpointOptions, SaveRun, WholeCheckpoints
from dynaconv.train.stopping import RunStopped, StopSignals
from dynaconv.train.strategy import sum_over_processes
from dynaconv.train.sync_norm import SyncedBatchNorm
from dynaconv.train.threads import divide_threads
from dynaconv.train.torchrun import placed_by_torchrun


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Result of a finished run.

    Attributes:
        directory: The run's folder.
        summary: Content of ``summary.json``.
        model: The network with the tested weights, in eval mode, on the CPU.
    """

    directory: Path
    summary: dict[str, Any]
    model: nn.Module


def build(resolved: Namespace, *, resumed: bool = False) -> Namespace:
    """Seed the generators, and return the objects of a resolved configuration by its keys.

    Args:
        resolved: What `resolve` returned.
        resumed: Whether a checkpoint has the weights, so that none are downloaded.
    """
    check_options(resolved.model.as_dict())
    seed_everything(resolved.seed, workers=True, verbose=False)
    if resumed:
        resolved = resolved.clone()
        resolved.model.pretrained = False
    with logger_installed():
        built: Namespace = make_parser().instantiate(resolved)
    return built


class Run:
    """One run in its folder; the arguments are those of `dynaconv.train.run.fit`."""

    def __init__(
        self,
        resolved: Namespace,
        built: Namespace,
        directory: Path,
        on_start: Callable[[Path, dict[str, Any]], None] | None,
        callbacks: Sequence[Callback],
        command: str | None,
        notes: Sequence[str],
    ) -> None:
        self.data: ImageDataModule = built.data
        self.module: ClassificationModule = built.model
        self.directory = directory
        self.seed = resolved.seed
        self.notes = [*notes, *([self.data.source.note] if self.data.source.note else [])]
        self.command = command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        self.on_start = on_start
        self.table = EpochTable(directory / METRICS_FILE)
        self.last = directory / CHECKPOINT_FOLDER / LAST
        self.stop = StopSignals()
        self.data.corrupt.file = directory / CORRUPT_FILE
        self.guard = GuardFinite(self.module.hparams["skip_nonfinite"])
        self.fingerprint = fingerprint(
            self.data.class_names,
            {"train": self.data.train_split, "val": self.data.val_split, "test": self.data.source.test},
        )
        self._check_image_size()
        self.module.metadata = self._metadata(resolved.data.as_dict())
        self.trainer = self._make_trainer(built.trainer.as_dict(), built.checkpoint, callbacks)

    def _check_image_size(self) -> None:
        """Raise an error if the network does not accept the images."""
        model, size = self.module.model, self.data.image_size
        image = torch.zeros(1, self.data.in_channels, size, size)
        try:
            with torch.no_grad(), eval_mode(model):
                model(image)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            name, reason = self.module.hparams["name"], " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise RunError(
                f"{name} does not accept images of {size} x {size} pixels: {reason}. "
                f"Pass another --data.image_size, or another --model."
            ) from error

    def check_resumable(self, saved: Mapping[str, Any]) -> None:
        """Raise an error if the data set or the global batch differs from that of the checkpoint."""
        check_data(self.directory, saved, self.fingerprint)
        check_batch(
            saved,
            batch_size=self.data.batch_size,
            processes=self.trainer.world_size,
            accumulation=self.trainer.accumulate_grad_batches,
            readers=self.data.shard_readers(self.trainer.world_size),
        )

    def _metadata(self, data_options: dict[str, Any]) -> dict[str, Any]:
        hparams, data = self.module.hparams, self.data
        return {
            "model": hparams["name"],
            **self.module.structure,
            "num_classes": data.num_classes,
            "class_names": list(data.class_names),
            "in_channels": data.in_channels,
            "image_size": data.image_size,
            "mean": list(data.mean),
            "std": list(data.std),
            "style": data.style,
            "crop_pct": data.crop_pct,
            "interpolation": data.interpolation,
            "data": data_options,
            "dynaconv_version": __version__,
        }

    def _make_trainer(
        self,
        options: dict[str, Any],
        checkpoints: CheckpointOptions,
        callbacks: Sequence[Callback],
    ) -> Trainer:
        options = {key: value for key, value in options.items() if value is not None}
        if not self.data.has_validation:
            options["limit_val_batches"] = 0
        facts = {
            "batch_size": self.data.batch_size,
            "accumulation": options.get("accumulate_grad_batches", 1),
            "data": self.fingerprint,
        }
        inside_epochs = not isinstance(self.data.train_split, IterableDataset)
        own = [ExactState(self.seed, facts), ValidateLastEpoch(), self.table, self.guard]
        saving = SaveRun(self.last, checkpoints, self.stop, self.table, inside_epochs=inside_epochs)
        given = _as_list(options.pop("callbacks", None))
        plugins = [*_as_list(options.pop("plugins", None)), WholeCheckpoints()]
        # The module converts the norms, because torch has no synchronised norm for the CPU. The data module divides the
        # images among the processes.
        self.module.sync_norms = bool(options.pop("sync_batchnorm", False))
        options["use_distributed_sampler"] = False
        if options.get("logger", True) is True:
            with logger_installed():
                options["logger"] = TensorBoardLogger(str(self.directory), name="", version=LOG_FOLDER)
        options = placed_by_torchrun(options)
        try:
            with quiet_lightning():
                trainer = Trainer(
                    **options,
                    callbacks=[*own, saving, *given, *callbacks],
                    plugins=plugins,
                    default_root_dir=self.directory,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                )
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise RunError(f"the Trainer does not take its options: {' '.join(str(error).split())}") from error
        if not is_started_from_outside():
            divide_threads(trainer.num_devices)
        facts["readers"] = self.data.shard_readers(trainer.world_size)
        return trainer

    def execute(self, *, resume: Path | None) -> RunResult:
        keep_freed_memory()
        facts = {
            "model": self.module.hparams["name"],
            "params": sum(parameter.numel() for parameter in self.module.model.parameters()),
            "train_images": length_of(self.data.train_split),
            "val_images": length_of(self.data.val_split),
            "test_images": length_of(self.data.source.test),
            # max_epochs is -1 for a run whose length is given in steps.
            "epochs": self.trainer.max_epochs if (self.trainer.max_epochs or -1) > 0 else None,
            "threads": torch.get_num_threads(),
            **self._scale_facts(),
        }
        if self.on_start is not None and self.trainer.is_global_zero:
            self.on_start(self.directory, {**facts, "notes": self.notes})
        with self.stop:
            self._fit(resume)
            return self._finish(facts)

    def _fit(self, resume: Path | None) -> None:
        errors_explained = explained(self.last, processes=self.trainer.world_size)
        try:
            with errors_explained, quiet_lightning(), one_sentence():
                self.trainer.fit(self.module, datamodule=self.data, ckpt_path=resume, weights_only=True)
        except SystemExit:
            # Lightning turns Ctrl+C into SystemExit and may leave the signal ignored. A SIGTERM before our own handler
            # is installed raises SystemExit too.
            self.stop.install()
            if self.stop.received is None or self.stop.interrupted_twice:
                raise KeyboardInterrupt from None
            raise self._stopped() from None

    def _scale_facts(self) -> dict[str, Any]:
        """Return the facts that depend on the number of processes, and add notes about them for the user."""
        self.trainer.datamodule = self.data  # type: ignore[attr-defined]
        batch, hparams = global_batch(self.trainer), self.module.hparams
        self.module.trainer = self.trainer
        lr = self.module.peak_lr()
        self.data.check_scale(batch.processes)
        if self.module.mix is not None and self.data.smallest_batch(batch.processes) < 2:
            raise RunError(
                "model.mix needs at least two images per step on each device, but there is one; raise "
                "data.batch_size, or leave out model.mix."
            )
        self.notes += scale_notes(batch, hparams, lr, self.module.optimizer.rule)
        left_out = self.data.left_out(batch.processes)
        # The number of images that a stream of timm leaves out depends on its loader processes.
        if left_out and (batch.processes > 1 or not isinstance(self.data.train_split, IterableDataset)):
            self.notes.append(
                f"{left_out:,} training images are left out of each epoch, different ones in each: they do not fill "
                f"another batch of {self.data.batch_size}{' on every device' if batch.processes > 1 else ''}."
            )
        return {"lr": lr, "images_per_update": batch.images, "processes": batch.processes}

    def _tested_network(self, checkpoint: Path) -> nn.Module:
        """Return an unsharded network with the weights of a checkpoint, which each process evaluates on its own."""
        model = self.module.evaluated_model
        state = evaluated_state(read_lightning_checkpoint(checkpoint)["state_dict"])
        if not any(isinstance(part, SyncedBatchNorm | nn.SyncBatchNorm | FSDPModule) for part in model.modules()):
            model.load_state_dict(state)
            return model
        dtype = next(value.dtype for value in state.values() if value.is_floating_point())
        return load_trained(checkpoint)[0].to(dtype)

    def _finish(self, facts: dict[str, Any]) -> RunResult:
        # There is no best checkpoint if no validation ran.
        chosen = BEST if (self.directory / CHECKPOINT_FOLDER / BEST).is_file() else LAST
        file = self.directory / CHECKPOINT_FOLDER / chosen
        checkpoint = read_lightning_checkpoint(file)
        model = self._tested_network(file)
        device = self.trainer.strategy.root_device
        tested = self._test(model.to(device), device)
        rows = self.table.rows
        metrics = {"test_accuracy": tested.accuracy, "test_loss": tested.loss, "test_top5": tested.top5}
        best = max((float(row["val_acc"]) for row in rows if row.get("val_acc") not in (None, "")), default=None)
        summary = {
            **facts,
            "epochs": facts["epochs"] or len(rows),
            **metrics,
            "val_accuracy": best,
            "weights": {
                "checkpoint": chosen,
                "epoch": int(checkpoint["epoch"]) + 1,
                "ema": self.module.ema is not None,
            },
            "skipped_steps": self.guard.skipped,
            "corrupt_images": self.data.corrupt.found(),
            "train_seconds": sum(float(row["seconds"]) for row in rows),
            "seed": self.seed,
            "data": self.data.name,
            "model_options": self.module.metadata["model_options"],
            "per_class": tested.per_class,
            "device": str(device),
            "versions": _versions(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": self.command,
        }
        model = model.cpu().eval()
        if self.trainer.is_global_zero:
            save_trained(self.directory / MODEL_FILE, model, {**self.module.metadata, "metrics": metrics})
            save(training_curves({facts["model"]: read_metrics(self.table.path)}), self.directory / CURVES_FILE)
            # Last, because a folder with a summary counts as finished.
            write_json(self.directory / SUMMARY_FILE, summary)
        return RunResult(directory=self.directory, summary=summary, model=model)

    def _test(self, model: nn.Module, device: torch.device) -> Evaluation:
        try:
            combine = partial(sum_over_processes, device=device)
            loader = self.data.test_dataloader()
            return evaluate(
                model, loader, self.data.class_names, device=device, combine=combine, report=self._stop_if_asked
            )
        except DataError as error:
            raise DataError(
                f"{error} The training is finished; then run `dynaconv train --resume {self.directory}`."
            ) from error

    def _stop_if_asked(self, images: int) -> None:
        if self.stop.received is not None:
            raise self._stopped()

    def _stopped(self) -> RunStopped:
        return RunStopped(self.stop.received or "SIGTERM", self.trainer.global_step, directory=self.directory)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _versions() -> dict[str, str]:
    found = {"dynaconv": __version__, "python": sys.version.split()[0]}
    for package in ("torch", "torchvision", "timm", "lightning"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
