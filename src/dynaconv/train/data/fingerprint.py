"""Fingerprints of data sets, with which a resumed run checks that its data set is the same."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from dynaconv.train.data.drawn import DrawnImages
from dynaconv.train.data.folder import FolderImages
from dynaconv.train.data.source import Split, TensorImages, length_of

_SPLITS = (("train", "training"), ("val", "validation"), ("test", "test"))


def fingerprint(class_names: tuple[str, ...], splits: Mapping[str, Split | None]) -> dict[str, Any]:
    """Return the fingerprint of a data set, which is stored in checkpoints.

    Args:
        class_names: The names, in the order of the class indices.
        splits: The splits by their names ``"train"``, ``"val"`` and ``"test"``.

    Returns:
        ``class_names``, and for each split its number of ``images`` and a ``digest``: of pixels and classes for images
        in memory (for drawn ones, of those in their bank), of file names and classes for a folder, else ``None``. Files
        are not read, so an overwritten one does not change the digest. A moved folder does not change it either.
    """
    result: dict[str, Any] = {"class_names": list(class_names)}
    for name, _ in _SPLITS:
        split = splits.get(name)
        result[name] = {"images": length_of(split), "digest": _digest(split)}
    return result


def _digest(split: Split | None) -> str | None:
    digest = hashlib.sha256()
    if isinstance(split, TensorImages):
        digest.update(split.images.contiguous().numpy().data)
        digest.update(split.targets.contiguous().numpy().data)
    elif isinstance(split, DrawnImages):
        digest.update(split.bank.contiguous().numpy().data)
        digest.update(split.bank_targets.contiguous().numpy().data)
        digest.update(f"{split.draw} {split.distinct}".encode())
    elif isinstance(split, FolderImages):
        root = os.path.commonpath(split.paths)
        for path, target in zip(split.paths, split.targets, strict=True):
            digest.update(f"{os.path.relpath(path, root)}\0{target}\n".encode("utf-8", "surrogateescape"))
    else:
        return None
    return digest.hexdigest()


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return a clause that says how two fingerprints differ, or ``None`` if they are equal."""
    old, new = before["class_names"], now["class_names"]
    if len(old) != len(new):
        return f"it had {len(old)} classes and now has {len(new)}"
    renamed = next(((a, b) for a, b in zip(old, new, strict=True) if a != b), None)
    if renamed is not None:
        return f"the class {renamed[0]!r} is now called {renamed[1]!r}"
    for name, word in _SPLITS:
        if before[name]["images"] != now[name]["images"]:
            return f"it had {before[name]['images']} {word} images and now has {now[name]['images']}"
        if before[name]["digest"] != now[name]["digest"]:
            return f"its {before[name]['images']} {word} images, or their classes, are different"
    return None
