"""What identifies a data set, so that a resumed run goes on with the one it began with."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from dynaconv.train.data.drawn import DrawnImages
from dynaconv.train.data.folder import FolderImages
from dynaconv.train.data.source import Split, TensorImages, length_of

_SPLITS = (("train", "training"), ("val", "validation"), ("test", "test"))


def fingerprint(class_names: tuple[str, ...], splits: Mapping[str, Split | None]) -> dict[str, Any]:
    """Return what a checkpoint keeps of its data.

    Args:
        class_names: In the order of the class indices.
        splits: ``"train"``, ``"val"`` and ``"test"``.

    Returns:
        ``class_names``, and for each split its number of ``images`` and a ``digest``: of pixels and classes for images
        in memory (for drawn ones, of those in their bank), of file names and classes for a folder, else ``None``. Files
        are not read, so one that was overwritten is not noticed, and neither is a folder that was moved.
    """
    found: dict[str, Any] = {"class_names": list(class_names)}
    for name, _ in _SPLITS:
        split = splits.get(name)
        found[name] = {"images": length_of(split), "digest": _digest(split)}
    return found


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
    """Say what of a data set changed between two fingerprints; ``None`` when nothing did."""
    old, new = before["class_names"], now["class_names"]
    if len(old) != len(new):
        return f"it had {len(old)} classes and now has {len(new)}"
    unlike = next(((a, b) for a, b in zip(old, new, strict=True) if a != b), None)
    if unlike is not None:
        return f"the class {unlike[0]!r} is now called {unlike[1]!r}"
    for name, word in _SPLITS:
        if before[name]["images"] != now[name]["images"]:
            return f"it had {before[name]['images']} {word} images and now has {now[name]['images']}"
        if before[name]["digest"] != now[name]["digest"]:
            return f"its {before[name]['images']} {word} images are other ones, or have other classes"
    return None
