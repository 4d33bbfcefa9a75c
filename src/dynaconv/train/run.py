"""Trains and tests a network from a configuration, in a run folder."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from dynaconv.errors import CheckpointError, RunError
from dynaconv.files import remove_leftovers, write_text
from dynaconv.train.checkpoint import read_lightning_checkpoint
from dynaconv.train.config import TrainConfig, foreign_options, load_recipe, resolve, to_yaml
from dynaconv.train.data.sources import is_folder_name, missing_folder
from dynaconv.train.execution import Run, RunResult, build
from dynaconv.train.folders import (
    BEST,
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    CORRUPT_FILE,
    LAST,
    LOG_FOLDER,
    METRICS_FILE,
    SUMMARY_FILE,
    claim_folder,
    is_first_process,
)
from dynaconv.train.resume_checks import check_configuration
from dynaconv.train.resume_state import RUN_KEY
from dynaconv.train.stopping import RunStopped

__all__ = ["RunResult", "fit", "resume"]


def fit(
    config: TrainConfig,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    on_start: Callable[[Path, dict[str, Any]], None] | None = None,
    callbacks: Sequence[Callback] = (),
    command: str | None = None,
) -> RunResult:
    """Train and test a network, and write everything to a fresh folder.

    Args:
        config: Configuration of the run.
        out: The run folder, which must be empty or not exist; by default a fresh one under ``runs/``.
        overrides: Command-line arguments that change ``config``, such as ``["--trainer.max_epochs=3"]``.
        on_start: Called once, before the first step, with the folder and facts about the run; ``facts["notes"]`` are
            sentences for the user.
        callbacks: Further Lightning callbacks.
        command: The command to record in the summary; by default that of this process.

    Returns:
        The folder, the summary and the network.

    Raises:
        DynaconvError: The configuration, the data or the folder cannot be used, or the loss became non-finite.
        RunStopped: Ctrl+C, SIGTERM, SIGHUP or SIGUSR1 was received; the run is saved.
        KeyboardInterrupt: Ctrl+C was received twice.
    """
    if out is not None and not str(out):
        raise RunError("the name of the run folder is empty; pass --out DIR, or leave it out.")
    resolved = resolve(config, overrides)
    notes = []
    if foreign := foreign_options(config, resolved.model.name):
        given = ", ".join(f"{key}: {value}" for key, value in foreign.items())
        name = resolved.model.name
        notes = [f"{name} is not one of dynaconv's models, so the recipe's model_options ({given}) are left out."]
    built = build(resolved)
    directory = claim_folder(Path(out) if out is not None else None, data=resolved.data.name, model=resolved.model.name)
    try:
        run = Run(resolved, built, directory, on_start, callbacks, command, notes)
        if is_first_process():
            write_text(directory / CONFIG_FILE, to_yaml(resolved))
        return run.execute(resume=None)
    except RunStopped:
        raise
    except BaseException:
        _discard_without_checkpoint(directory)
        raise


def resume(
    directory: str | Path,
    *,
    config: TrainConfig | None = None,
    overrides: Sequence[str] = (),
    on_start: Callable[[Path, dict[str, Any]], None] | None = None,
    callbacks: Sequence[Callback] = (),
    command: str | None = None,
) -> RunResult:
    """Continue an interrupted run in its own folder, from its last checkpoint, or from the start if it has none.

    The final weights equal those of an uninterrupted run.

    Args:
        directory: The run's folder.
        config: A configuration, which must agree with the run's own; by default the run's own.
        overrides: Command-line arguments. They may change options that do not affect the result, such as
            ``--data.num_workers``.
        on_start, callbacks, command: As for `fit`.

    Raises:
        DynaconvError: It is not a run folder, the run is finished, or the configuration or the data changed.
        RunStopped, KeyboardInterrupt: As for `fit`.
    """
    directory = Path(directory).expanduser()
    config_file, last = directory / CONFIG_FILE, directory / CHECKPOINT_FOLDER / LAST
    if not config_file.is_file():
        raise RunError(f"{directory} is not a run folder: it has no {CONFIG_FILE}.")
    if (directory / SUMMARY_FILE).is_file():
        raise RunError(f"the run in {directory} is finished; start another with --out.")
    own = load_recipe(config_file)
    resolved = resolve(config or own, overrides)
    check_configuration(directory, resolve(own).as_dict(), resolved.as_dict())
    saved = _read_progress(last) if last.is_file() else {"epochs": 0, "batches": 0}
    if (missing := missing_folder(resolved.data.name, resolved.data.data_dir)) is not None:
        flag = "--data" if is_folder_name(resolved.data.name) else "--data-dir"
        raise RunError(f"the folder {missing} of the training data does not exist; restore it, or pass {flag} DIR.")
    built = build(resolved, resumed=last.is_file())
    built.data.start = saved["epochs"], saved["batches"]
    notes = [] if last.is_file() else ["The run was not saved before it ended: it starts from the beginning."]
    run = Run(resolved, built, directory, on_start, callbacks, command, notes)
    run.check_resumable(saved)
    run.table.restore(saved["epochs"])
    if is_first_process():
        remove_leftovers(directory)
        write_text(config_file, to_yaml(resolved))
    return run.execute(resume=last if last.is_file() else None)


def _read_progress(last: Path) -> dict[str, Any]:
    """Return the progress that the last checkpoint of a run records."""
    try:
        progress: dict[str, Any] = read_lightning_checkpoint(last)[RUN_KEY]
        return progress
    except CheckpointError as error:
        best = last.with_name(BEST)
        if not best.is_file():
            raise
        raise CheckpointError(
            f"the checkpoint {last} is damaged or incomplete; copy {best} over it to continue from there."
        ) from error


def _discard_without_checkpoint(directory: Path) -> None:
    """Remove the folder of a run that failed before its first checkpoint, so that its name can be used again."""
    if not is_first_process():
        return
    disposable = {CONFIG_FILE, METRICS_FILE, LOG_FOLDER, CORRUPT_FILE}
    files = [path.relative_to(directory) for path in directory.rglob("*") if not path.is_dir()]
    if all(file.parts[0] in disposable for file in files):
        shutil.rmtree(directory, ignore_errors=True)
