"""Checks that a run is resumed with its own configuration, data set and global batch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynaconv.errors import DataError, RunError
from dynaconv.train.data.fingerprint import difference

# Options that may change: they do not affect the result of a run, or `check_data` and `check_batch` cover their effect.
_MAY_CHANGE = {
    "data.name",
    "data.data_dir",
    "data.batch_size",
    "data.num_workers",
    "data.max_corrupt",
    "model.skip_nonfinite",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.accumulate_grad_batches",
    "trainer.logger",
    "trainer.log_every_n_steps",
}
_MISSING = object()


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, list(value) if isinstance(value, tuple) else value


def check_configuration(directory: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise an error if a configuration would change the result of a run.

    Args:
        directory: The run's folder, for the message.
        before, now: Resolved configurations, as nested dictionaries.

    Raises:
        RunError: The configurations differ in an option that affects the result; the message has the keys with their
            old and new values.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    changed = [
        (key, old.get(key, _MISSING), new.get(key, _MISSING))
        for key in sorted(old.keys() | new.keys())
        if key not in _MAY_CHANGE and not key.startswith(("checkpoint.", "trainer.logger."))
    ]
    changed = [(key, one, other) for key, one, other in changed if one != other]
    if not changed:
        return
    differences = ", ".join(f"{key} was {_format(one)} and is {_format(other)}" for key, one, other in changed[:3])
    more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
    raise RunError(
        f"the run in {directory} was started with another configuration: {differences}{more}; resume it with the same "
        f"one, or start another run with --out."
    )


def _format(value: Any) -> str:
    return "not set" if value is _MISSING or value is None else repr(value)


def check_data(directory: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise an error if the data set is not the one that a checkpoint was trained on.

    Args:
        directory: The run's folder, for the message.
        saved: State of the run in a checkpoint, as `ExactState` writes it.
        now: The data set's fingerprint.

    Raises:
        DataError: The data set changed; the message names the difference.
    """
    if (change := difference(saved["data"], now) if "data" in saved else None) is not None:
        raise DataError(
            f"the data set changed since the run in {directory} was saved: {change}; restore it, or start another run "
            f"with --out."
        )


def check_batch(
    saved: Mapping[str, Any], *, batch_size: int, processes: int, accumulation: int, readers: int | None
) -> None:
    """Raise an error if the images per update changed, or inside an epoch their division among processes and steps.

    Args:
        saved: State of the run in a checkpoint, as `ExactState` writes it.
        batch_size: Images per step in one process.
        processes: Number of processes now.
        accumulation: Steps per update.
        readers: Processes of each device that read shards; None for other data.

    Raises:
        RunError: The run cannot be resumed with these numbers; the message has the old and the new ones.
    """
    if "world_size" not in saved:
        return
    if saved["batches"] and saved.get("readers", readers) != readers:
        raise RunError(
            f"the run was saved inside epoch {saved['epochs'] + 1} with {saved['readers']} loader processes for its "
            f"shards, and {readers} would read other images; finish that epoch with --data.num_workers "
            f"{saved['readers']}."
        )
    before = saved["world_size"], saved["batch_size"], saved["accumulation"]
    now = processes, batch_size, accumulation
    if before == now:
        return
    divisions = f"the run was saved with {_division(*before)} and would be resumed with {_division(*now)}"
    total = before[0] * before[1] * before[2]
    if total != processes * batch_size * accumulation:
        fits = total % (processes * accumulation) == 0
        how = f"pass --batch-size {total // (processes * accumulation)}" if fits else "use as many processes as before"
        raise RunError(f"{divisions}: the number of images per update would change; {how}.")
    if saved["batches"]:
        raise RunError(
            f"{divisions}, but its checkpoint is inside epoch {saved['epochs'] + 1}, where each process has its own "
            f"random states; finish that epoch with the previous numbers, then change them."
        )


def _division(processes: int, batch_size: int, accumulation: int) -> str:
    steps = f" x {accumulation} accumulated steps" if accumulation > 1 else ""
    noun = "process" if processes == 1 else "processes"
    return f"{processes} {noun} x {batch_size} images{steps} ({processes * batch_size * accumulation} an update)"
