"""Finds the images in a folder tree: its splits, its class folders, and the files that are left out."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dynaconv.errors import DataError, abbreviated, counted, listed
from dynaconv.train.data.image_file import IMAGE_SUFFIXES, is_readable
from dynaconv.train.folders import is_run_folder

SplitWord = Literal["train", "validation", "test"]
_SPLITS: dict[str, SplitWord] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "evaluation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Names in lower case that file managers, network storage and archives create, without those that start with a dot.
_SYSTEM_NAMES = frozenset(
    {"__macosx", "__pycache__", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin"}
    | {"lost+found", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"}
)
_HIDDEN = "hidden"
_RUNS = "with runs of dynaconv"


def split_word(name: str) -> SplitWord | None:
    """Return the split that a name means, in any case, such as ``"validation"`` for ``Val``, or ``None``."""
    return _SPLITS.get(name.lower())


@dataclass
class LeftOut:
    """Files and folders of a data set that are not read.

    Attributes:
        files: Number of files by reason.
        folders: Folders, as a message names them.
    """

    files: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = []
        if total := self.files.total():
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.files.most_common())
            parts.append(f"{counted(total, 'file')} ({reasons})")
        if self.folders:
            parts.append(f"the folder{'s' if len(self.folders) > 1 else ''} {abbreviated(self.folders, most=5)}")
        return " and ".join(parts)


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """Content of a folder: subfolders and images, sorted by name, and the number of other files by reason."""

    folders: Mapping[str, Path]
    images: Sequence[Path]
    others: Counter[str]
    is_run: bool


def _list(folder: Path) -> _Listing:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}.") from error
    folders: dict[str, Path] = {}
    images: list[Path] = []
    others: Counter[str] = Counter()
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_NAMES:
            others[_HIDDEN] += _files_in(entry)
        elif (kind := _kind(entry)) == "folder":
            folders[entry.name] = folder / entry.name
        elif kind != "file":
            others[kind] += 1
        elif suffix not in IMAGE_SUFFIXES:
            others["without an image extension"] += 1
        elif not is_readable(suffix):
            others[f"of type {suffix}, which Pillow cannot open here"] += 1
        else:
            images.append(folder / entry.name)
    is_run = is_run_folder(entry.name for entry in entries)
    return _Listing(folders=folders, images=images, others=others, is_run=is_run)


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    # A loop of symbolic links.
    except OSError:
        pass
    return "linked to nothing" if entry.is_symlink() else "of a special type"


def _files_in(entry: os.DirEntry[str]) -> int:
    if not entry.is_dir(follow_symlinks=False):
        return 1
    return sum(len(files) for _, _, files in os.walk(entry.path))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of an image folder.

    Attributes:
        folder: The given folder, or a subfolder that contains the splits or classes.
        splits: Folder of each split in ``folder``.
        classes: Folders of the classes, if ``folder`` has no splits.
    """

    folder: Path
    splits: Mapping[SplitWord, Path] = field(default_factory=dict)
    classes: Mapping[str, Path] = field(default_factory=dict)


def find_layout(folder: Path, left_out: LeftOut) -> Layout:
    """Return the layout of an image folder.

    Args:
        folder: Contains ``train/CLASS`` and ``test/CLASS`` or ``val/CLASS``, with any usual names of the splits in any
            case, or ``CLASS`` only, or one folder with either.
        left_out: Collects the files and folders that are not read.

    Raises:
        DataError: A split is missing or exists twice, splits are inside the classes, or two folders have splits.
    """
    folders = class_folders(folder, left_out)
    splits = _splits(folder, folders)
    if not splits:
        runs = [name for name, path in folders.items() if _contains_runs(path)]
        left_out.folders += [f"{name} ({_RUNS})" for name in runs]
        folders = {name: path for name, path in folders.items() if name not in runs}
        inside = [name for name, path in folders.items() if _splits(path, _list(path).folders)]
        if len(inside) > 1:
            raise DataError(f"{folder} has splits in {listed(inside)}; pass one of these folders.")
        if not inside and len(folders) == 1:
            inside = [name for name, path in folders.items() if len(_list(path).folders) > 1]
        if inside:
            left_out.folders += [name for name in folders if name not in inside]
            folder = folders[inside[0]]
            folders = class_folders(folder, left_out)
            splits = _splits(folder, folders)
    if splits:
        left_out.folders += [name for name, path in folders.items() if path not in splits.values()]
        return Layout(folder=folder, splits=splits)
    for name, path in folders.items():
        words = {split_word(inner): inner for inner in _list(path).folders}
        if "train" in words and words.keys() & {"validation", "test"}:
            raise DataError(
                f"{folder} has splits inside its classes, such as {name}/{words['train']}; move the classes into "
                f"the splits."
            )
    return Layout(folder=folder, classes=folders)


def images_below(folder: Path, left_out: LeftOut) -> list[Path]:
    """Return the images in a class folder and its subfolders, sorted; symbolic links are followed.

    Raises:
        DataError: A folder cannot be read.
    """
    ancestors = frozenset(_identity(path) for path in (folder, *folder.absolute().parents))
    return sorted(_walk(folder, ancestors, left_out))


def _walk(folder: Path, ancestors: frozenset[tuple[int, int]], left_out: LeftOut) -> Iterable[Path]:
    listing = _list(folder)
    if listing.is_run:
        left_out.folders.append(f"{folder.name} ({_RUNS})")
        return
    left_out.files += listing.others
    yield from listing.images
    for path in listing.folders.values():
        identity = _identity(path)
        if identity in ancestors:
            left_out.files["linked to a folder around it"] += 1
        else:
            yield from _walk(path, ancestors | {identity}, left_out)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def class_folders(folder: Path, left_out: LeftOut) -> Mapping[str, Path]:
    """Return the subfolders, sorted, of a folder that contains classes or splits; its files are left out."""
    listing = _list(folder)
    left_out.files += listing.others
    if listing.images:
        left_out.files["outside the class folders"] += len(listing.images)
    return listing.folders


def _splits(folder: Path, folders: Mapping[str, Path]) -> dict[SplitWord, Path]:
    """Return the splits among subfolders. A folder without subfolders is no split, but may be a class ``train``."""
    found: dict[SplitWord, Path] = {}
    for name, path in folders.items():
        word = split_word(name)
        if word is None or not _list(path).folders:
            continue
        if word in found:
            raise DataError(f"{folder} has both {found[word].name}/ and {name}/; remove or rename one of them.")
        found[word] = path
    if found and "train" not in found:
        held = listed((f"{path.name}/" for path in found.values()), quote=False)
        raise DataError(f"{folder} has {held} but no train/; add it, or rename the folder if it is a class.")
    if len(found) == 1:
        raise DataError(f"{folder} has {found['train'].name}/ but neither test/ nor val/; add one.")
    return found


def _contains_runs(folder: Path) -> bool:
    return any(is_run_folder([*folders, *files]) for _, folders, files in os.walk(folder))
