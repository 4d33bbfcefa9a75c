"""A cache on disk for rendered or synthesised images."""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from joblib import Memory
from torch import Tensor

MOST_BYTES = 2 * 1024**3
"""Largest total size of the banks on disk; the least recently used ones are removed first."""


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Images and further values.

    Attributes:
        images: ``uint8``.
        facts: Further values.
    """

    images: Tensor
    facts: Mapping[str, Any]


def cache_folder() -> Path:
    """Return dynaconv's folder in the user's cache, which may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynaconv"


def cached_bank(name: str, key: Mapping[str, Any], make: Callable[[], Bank]) -> Bank:
    """Return a bank from the user's cache, or make it and store it there.

    The bank is made again if its file is damaged, and each time if the cache is not writable. If several processes need
    banks of one name at the same time, one of them makes its bank first.

    Args:
        name: Name of the kind of bank.
        key: Values that determine the bank: options, checksums of files, versions.
        make: Makes the bank.
    """
    folder = cache_folder() / "banks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        lock.acquire()
    except OSError:
        return make()
    try:
        # Compressed, since zlib's checksum finds a damaged file.
        memory = Memory(folder, compress=1, verbose=0)
        with warnings.catch_warnings():
            # On a full or read-only disk the bank is not stored.
            warnings.filterwarnings("ignore", "Unable to cache")
            bank: Bank = memory.cache(_made, ignore=["make"])(name, dict(key), make)
        memory.reduce_size(bytes_limit=MOST_BYTES)
    finally:
        lock.release()
    return bank


def _made(name: str, key: Mapping[str, Any], make: Callable[[], Bank]) -> Bank:
    return make()
