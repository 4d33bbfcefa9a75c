"""Creates run folders. Each belongs to one run, and no run overwrites the folder of another."""

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from dynaconv.errors import RunError

CONFIG_FILE, METRICS_FILE, SUMMARY_FILE, CURVES_FILE = "config.yaml", "metrics.csv", "summary.json", "curves.png"
LOG_FOLDER, CORRUPT_FILE, CHECKPOINT_FOLDER = "tensorboard", "corrupt.txt", "checkpoints"
BEST, LAST = "best.ckpt", "last.ckpt"

RUN_VARIABLE = "DYNACONV_RUN_FOLDER"
# Environment variables for the rank of a process, over all nodes or in its node, and for the rank of its node.
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
_NEEDS_OUT = "processes that torchrun or SLURM starts need a common run folder; pass --out DIR."


def is_first_process() -> bool:
    """Return whether this process writes files and prints: it is the first or the only one of its run."""
    ranks = (os.environ.get(name, "0") for name in _RANK_VARIABLES)
    return all(rank == "0" for rank in ranks)


def is_started_from_outside() -> bool:
    """Return whether torchrun or SLURM, not the run itself, started this process and others."""
    counts = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    return any(count != "1" for count in counts) and ("RANK" in os.environ or "SLURM_PROCID" in os.environ)


def is_run_folder(names: Iterable[str]) -> bool:
    """Return whether a folder with these entries is a run folder; a new one has only a configuration."""
    found = set(names)
    return CONFIG_FILE in found and (
        found == {CONFIG_FILE} or not found.isdisjoint((METRICS_FILE, SUMMARY_FILE, LOG_FOLDER, CHECKPOINT_FOLDER))
    )


def default_folder(data: str, model: str, root: Path = Path("runs")) -> Path:
    """Return the default path of a run folder, named after the data, the model and the time."""
    stem = "-".join(re.sub(r"[^\w.]+", "_", Path(part).name or part).strip("_") for part in (data, model))
    return root / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def free_folder(path: Path) -> Path:
    """Return the first of ``path``, ``path-2``, ``path-3``, ... that does not exist."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def claim_folder(path: Path | None, *, data: str, model: str) -> Path:
    """Create a fresh run folder.

    Args:
        path: The requested folder, which must be empty or not exist; by default a free `default_folder`.
        data, model: Names for the default folder.

    Returns:
        The folder. The other processes of a distributed run get the folder of the first one.

    Raises:
        RunError: The folder is not empty or cannot be created, or torchrun or SLURM needs ``path``.
    """
    if path is None and is_started_from_outside():
        raise RunError(_NEEDS_OUT)
    if not is_first_process():
        shared = path or os.environ.get(RUN_VARIABLE)
        if shared is None:
            raise RunError(_NEEDS_OUT)
        return Path(shared)
    try:
        folder = _create_empty(path) if path is not None else make_free_folder(default_folder(data, model))
    except OSError as error:
        raise RunError(f"cannot create the run folder {path or 'runs/'}: {error.strerror}.") from error
    # Lightning starts the other processes of a run with this environment.
    os.environ[RUN_VARIABLE] = str(folder.resolve())
    return folder


def _create_empty(path: Path) -> Path:
    path = path.expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            f"{path} exists and is not an empty folder; a run never overwrites another, use {free_folder(path)}."
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def make_free_folder(path: Path) -> Path:
    """Create the first of ``path``, ``path-2``, ``path-3``, ... that does not exist, and return it."""
    while True:
        path = free_folder(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir()
        except FileExistsError:
            # Another run has created it in the meantime.
            continue
        return path
