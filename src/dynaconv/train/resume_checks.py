"""What may differ when a run is resumed, and what not."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynaconv.errors import DataError, RunError
from dynaconv.train.data.fingerprint import difference

# The course of a run does not follow from these, or what does is checked: the data's own fingerprint, the global batch.
_FREE = {
    "data.name",
    "data.data_dir",
    "data.batch_size",
    "data.num_workers",
    "data.max_corrupt",
    "model.nonfinite",
    "model.nonfinite_limit",
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
    """Refuse a configuration that would take a run elsewhere.

    Args:
        directory: The run's folder, for the message.
        before, now: Resolved configurations, as nested dictionaries.

    Raises:
        RunError: One differs from the other in more than where and how fast the run goes on; the message has the keys
            with their old and new values.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    changed = [
        (key, old.get(key, _MISSING), new.get(key, _MISSING))
        for key in sorted(old.keys() | new.keys())
        if key not in _FREE and not key.startswith(("checkpoint.", "trainer.logger."))
    ]
    changed = [(key, one, other) for key, one, other in changed if one != other]
    if not changed:
        return
    told = ", ".join(f"{key} was {_word(one)} and is {_word(other)}" for key, one, other in changed[:3])
    more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
    raise RunError(
        f"the run in {directory} was begun with another configuration: {told}{more}; --resume goes on with the one it "
        f"was begun with, start another run with --out."
    )


def _word(value: Any) -> str:
    return "not set" if value is _MISSING or value is None else repr(value)


def check_data(directory: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a data set that is not the one a checkpoint was trained on.

    Args:
        directory: The run's folder, for the message.
        saved: What `ExactState` keeps in a checkpoint.
        now: The data set's fingerprint.

    Raises:
        DataError: It changed; the message says in what.
    """
    if (what := difference(saved["data"], now) if "data" in saved else None) is not None:
        raise DataError(
            f"the data set changed since the run in {directory} was saved: {what}; bring it back, or start another run "
            f"with --out."
        )


def check_batch(saved: Mapping[str, Any], *, batch_size: int, processes: int, accumulation: int) -> None:
    """Refuse another number of images an update, and another division of them inside an epoch.

    Args:
        saved: What `ExactState` keeps in a checkpoint.
        batch_size: Images a step in one process.
        processes: How many there are now.
        accumulation: Steps an update.

    Raises:
        RunError: The run cannot go on like this; the message has both numbers of processes and images.
    """
    if "world_size" not in saved:
        return
    before = saved["world_size"], saved["batch_size"], saved["accumulation"]
    now = processes, batch_size, accumulation
    if before == now:
        return
    told = f"the run was saved by {_division(*before)}, and would go on with {_division(*now)}"
    total = before[0] * before[1] * before[2]
    if total != processes * batch_size * accumulation:
        fits = total % (processes * accumulation) == 0
        how = f"pass --batch-size {total // (processes * accumulation)}" if fits else "use as many processes as before"
        raise RunError(f"{told}: an update would see other images; {how}.")
    if saved["batches"]:
        raise RunError(
            f"{told}, but its checkpoint lies inside epoch {saved['epochs'] + 1}, where each process has random states "
            f"of its own; finish that epoch with {before[0]} of {before[1]} images a step, then change."
        )


def _division(processes: int, batch_size: int, accumulation: int) -> str:
    steps = f" x {accumulation} accumulated steps" if accumulation > 1 else ""
    noun = "process" if processes == 1 else "processes"
    return f"{processes} {noun} x {batch_size} images{steps} ({processes * batch_size * accumulation} an update)"
