"""Run folders: each belongs to one run, and none is ever written over."""

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from dynaconv.errors import RunError

CONFIG_FILE, METRICS_FILE, SUMMARY_FILE, CURVES_FILE = "config.yaml", "metrics.csv", "summary.json", "curves.png"
LOG_FOLDER, CORRUPT_FILE, CHECKPOINT_FOLDER = "tensorboard", "corrupt.txt", "checkpoints"

RUN_VARIABLE = "DYNACONV_RUN_FOLDER"
# torchrun and Lightning count inside a node and count the nodes; SLURM counts through.
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
_NEEDS_OUT = "processes that are started from outside need a common run folder; pass --out DIR."


def is_first_process() -> bool:
    """Whether this process is the only one of its run, or the one that writes and prints."""
    ranks = (os.environ.get(name, "0") for name in _RANKS)
    return all(rank == "0" for rank in ranks)


def is_started_from_outside() -> bool:
    """Whether torchrun or SLURM started this process beside others, rather than the run itself."""
    counts = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    return any(count != "1" for count in counts) and ("RANK" in os.environ or "SLURM_PROCID" in os.environ)


def is_run_folder(names: Iterable[str]) -> bool:
    """Whether a folder with these names in it is a run's; a configuration alone is what a run begins with."""
    found = set(names)
    return CONFIG_FILE in found and (
        found == {CONFIG_FILE} or not found.isdisjoint((METRICS_FILE, SUMMARY_FILE, LOG_FOLDER, CHECKPOINT_FOLDER))
    )


def default_folder(data: str, model: str, root: Path = Path("runs")) -> Path:
    """Return a name for a run's folder: the data, the model and the time."""
    stem = "-".join(re.sub(r"[^\w.]+", "_", Path(part).name or part).strip("_") for part in (data, model))
    return root / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def free_folder(path: Path) -> Path:
    """Return ``path``, or ``path-2``, ``path-3``, ... whichever does not exist."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def claim_folder(path: Path | None, *, data: str, model: str) -> Path:
    """Make a fresh run folder.

    Args:
        path: The folder asked for; it must not exist or be empty. Without it a free name is made up.
        data, model: Names for a made-up name.

    Returns:
        The folder. The further processes of a distributed run get the first one's.

    Raises:
        RunError: The folder holds something, or cannot be made.
    """
    if path is None and is_started_from_outside():
        raise RunError(_NEEDS_OUT)
    if not is_first_process():
        shared = path or os.environ.get(RUN_VARIABLE)
        if shared is None:
            raise RunError(_NEEDS_OUT)
        return Path(shared)
    try:
        folder = _make_fresh(path) if path is not None else make_free_folder(default_folder(data, model))
    except OSError as error:
        raise RunError(f"cannot make the run folder {path or 'runs/'}: {error.strerror}.") from error
    # Lightning starts the further processes of a run with this environment.
    os.environ[RUN_VARIABLE] = str(folder.resolve())
    return folder


def _make_fresh(path: Path) -> Path:
    path = path.expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            f"{path} exists and is not an empty folder; a run never writes over another, use {free_folder(path)}."
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def make_free_folder(path: Path) -> Path:
    """Make ``path``, or ``path-2``, ``path-3``, ... whichever is free, and return it."""
    while True:
        path = free_folder(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir()
        except FileExistsError:
            # Another run took the name since.
            continue
        return path
