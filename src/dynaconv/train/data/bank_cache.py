"""A cache on disk for rendered or synthesised images: files are written atomically, and checked when read."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dynaconv.files import replacing

MOST_BYTES = 2 * 1024**3
"""Largest total size of the banks on disk; the least recently used ones are removed first."""
_FORMAT = 1
_ABANDONED_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Images and further values.

    Attributes:
        images: ``uint8``.
        facts: Values that JSON can store.
    """

    images: Tensor
    facts: Mapping[str, Any]


def cache_folder() -> Path:
    """Return dynaconv's folder in the user's cache, which may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynaconv"


def cached_bank(name: str, key: Mapping[str, Any], make: Callable[[], Bank]) -> Bank:
    """Return a bank from the user's cache, or make it and store it there.

    The bank is made again if its file is damaged, and each time if the cache is not writable. If several processes need
    a bank at the same time, one of them makes it.

    Args:
        name: Beginning of the file's name.
        key: JSON values that determine the bank: options, checksums of files, versions.
        make: Makes the bank.
    """
    text = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
    folder = cache_folder() / "banks"
    path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except OSError:
        return make()
    try:
        bank = _read(path)
        if bank is None:
            bank = make()
            _write(path, bank)
        else:
            os.utime(path)
    finally:
        lock.release()
    return bank


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().data).hexdigest()


def _read(path: Path) -> Bank | None:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata, images = file.metadata() or {}, file.get_tensor("images")
    except (OSError, SafetensorError):
        return None
    if metadata.get("sha256") != _digest(images):
        return None
    return Bank(images=images, facts=json.loads(metadata["facts"]))


def _write(path: Path, bank: Bank) -> None:
    size = bank.images.numel()
    if size > MOST_BYTES:
        return
    metadata = {"sha256": _digest(bank.images), "facts": json.dumps(dict(bank.facts))}
    try:
        with replacing(path) as temporary:
            save_file({"images": bank.images.contiguous()}, str(temporary), metadata=metadata)
    except (OSError, SafetensorError):
        # On a full or read-only disk the bank is not stored.
        return
    _remove_oldest(path.parent, keep=path)


def _remove_oldest(folder: Path, *, keep: Path) -> None:
    found = []
    for path in folder.iterdir():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if path.suffix == ".safetensors":
            found.append((status.st_mtime, status.st_size, path))
        elif path.suffix == ".tmp" and time.time() - status.st_mtime > _ABANDONED_SECONDS:
            # Left by a killed process.
            path.unlink(missing_ok=True)
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= MOST_BYTES:
            return
        if path != keep:
            path.unlink(missing_ok=True)
            total -= size
