"""Packs an image folder into tar shards, and writes the index of shards."""

import math
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynaconv.errors import DataError, received
from dynaconv.files import resolve_links, write_json
from dynaconv.interrupts import propagating_interrupts
from dynaconv.train.data.folder import image_folder
from dynaconv.train.data.image_file import check_image, open_image
from dynaconv.train.data.shards import INDEX_FILE, all_samples, read_index, sample_class
from dynaconv.train.data.tree import LeftOut, find_layout, split_word

DEFAULT_SHARD_SIZE = 100_000_000
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SPLIT_NAME = re.compile(r"(?:^|[-_])([A-Za-z]+)[-_]?\d*$")


def parse_size(text: str) -> int:
    """Return the number of bytes of a size such as ``100MB``.

    Raises:
        DataError: The text is not a number with a unit, or the size is below one byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None or not 1 <= float(match[1]) * unit < math.inf:
        raise DataError(f"the size of a shard must be a number with kB, MB or GB, such as 100MB; got {received(text)}.")
    return int(float(match[1]) * unit)


def pack_folder(
    folder: Path,
    out: Path,
    *,
    shard_size: int = DEFAULT_SHARD_SIZE,
    shard_images: int | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    verify: bool = False,
    overwrite: bool = False,
    report: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Pack an image folder into shards of about one size, in random order, with an index.

    The files are stored unchanged; no image is compressed again. ``out`` changes only when all images are packed.

    Args:
        folder: A folder that `image_folder` accepts.
        out: Folder for the shards, which must be empty or not exist, unless ``overwrite`` is set.
        shard_size: Bytes of image files and their classes after which a shard ends, without tar's headers.
        shard_images: Images after which a shard ends, if that comes first.
        test_fraction: Fraction held out if the folder has no test set, by default 0.2.
        seed: Seed of that split and of the order.
        verify: Decode every image first, instead of checking its header.
        overwrite: Replace the shards in ``out``, which must have no other files.
        report: Called with the split, the number of images packed so far and their total number.
        say: Called once with a sentence about the splits and classes of the folder and the files that are left out.

    Returns:
        The index, as it was written.

    Raises:
        DataError: The folder is not an image folder, an image is corrupt, or ``out`` has files that must be kept.
    """
    source = image_folder(folder, channels=None, image_size=None, test_fraction=test_fraction, split_seed=seed)
    if out.exists() and not (out.is_dir() and all(overwrite and _is_part_of_shards(path) for path in out.iterdir())):
        kind = "a folder of shards alone" if overwrite else "an empty folder"
        raise DataError(f"{out} exists and is not {kind}; name another one for the shards.")
    if shard_images is not None and shard_images < 1:
        raise DataError(f"a shard must have at least 1 image; got {shard_images}.")
    if say is not None:
        say(source.note)
    # The held-out set of a folder without test/ is called "validation", as timm calls it for ImageNet.
    held_out = {"test": source.test, "validation": source.validation}
    if "test" not in (find_layout(folder, LeftOut()).splits or held_out):
        held_out = {"validation": source.test}
    splits: dict[str, Any] = {}
    index = {"name": folder.name, "splits": splits, "classes": list(source.class_names), "shuffled": True}
    with _replacing_shards(out) as packed:
        for split, images in {"train": source.train, **held_out}.items():
            if images is not None:
                limit = (shard_size, shard_images or len(images))
                splits[split] = _pack_split(folder, packed, split, images, limit, seed, verify, report)
        write_json(packed / INDEX_FILE, index)
    return index


def _is_part_of_shards(path: Path) -> bool:
    return path.suffix == ".tar" or path.name == INDEX_FILE


@contextmanager
def _replacing_shards(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which replaces ``folder`` and its files if the block ends without an error."""
    target = resolve_links(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        # An interrupt in between would leave neither the old shards nor the new ones.
        with propagating_interrupts(at_end=True):
            target.mkdir(exist_ok=True)
            for file in target.iterdir():
                file.unlink()
            temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _pack_split(
    folder: Path,
    out: Path,
    split: str,
    images: Any,
    limits: tuple[int, int],
    seed: int,
    verify: bool,
    report: Callable[[str, int, int], None] | None,
) -> dict[str, Any]:
    from webdataset import ShardWriter

    pattern = f"{str(out).replace('%', '%%')}/{split}-%06d.tar"
    # A fixed time and owner, so that the same images give the same bytes.
    fixed = {"mtime": 0, "user": "dynaconv", "group": "dynaconv"}
    counts: Counter[str] = Counter()
    with ShardWriter(pattern, maxsize=limits[0], maxcount=limits[1], verbose=0, **fixed) as writer:
        for number, index in enumerate(random.Random(f"{seed} {split}").sample(range(len(images)), len(images))):
            path, target = images.paths[index], images.targets[index]
            if verify:
                open_image(path, images.mode)
            check_image(path)
            writer.write(
                {
                    "__key__": f"{split}-{number:09d}",
                    path.suffix[1:].lower(): path.read_bytes(),
                    "cls": target,
                    "json": {"filename": str(path.relative_to(folder)), "label": target},
                }
            )
            counts[Path(writer.fname).name] += 1
            if report is not None:
                report(split, number + 1, len(images))
    return _entry(split, counts)


def _entry(split: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """Return the description of one split in the index, of the number of images in each file."""
    files, lengths = list(counts), list(counts.values())
    return {"name": split, "num_samples": sum(lengths), "filenames": files, "shard_lengths": lengths}


def index_shards(
    folder: Path, *, classes: Sequence[str] | None = None, report: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Count the images of shards, which another tool may have written, and write an index to their folder.

    If there is an index already, its class names and its flag ``shuffled`` are kept.

    Args:
        folder: Folder of ``*.tar`` files; the last word of a name before its number is its split, as in
            ``imagenet-train-0001.tar``.
        classes: Names of the classes, in the order of their indices; by default those of the previous index, or else
            "class 0", ...
        report: Called with the file, the number of shards done and their total number.

    Returns:
        The index, as it was written.

    Raises:
        DataError: There are no shards, a name has no split, or an image has no class.
    """
    files = sorted(path.name for path in folder.glob("*.tar"))
    if not files:
        raise DataError(f"{folder} has no .tar file.")
    before = read_index(str(folder)) if (folder / INDEX_FILE).is_file() else {"splits": {}}
    counts: dict[str, dict[str, int]] = {}
    label_keys: dict[str, str] = {}
    largest = -1
    for done, file in enumerate(files, 1):
        match = _SPLIT_NAME.search(Path(file).stem)
        if match is None:
            raise DataError(f"the name of {folder / file} has no split; rename it like train-000000.tar.")
        split = split_word(match[1]) or match[1].lower()
        label_keys[split] = before["splits"].get(split, {}).get("alt_label") or ""
        targets = [sample_class(sample, label_keys[split]) for sample in all_samples(str(folder / file))]
        if not targets:
            raise DataError(f"the shard {folder / file} has no image; remove it.")
        largest = max(largest, *targets)
        counts.setdefault(split, {})[file] = len(targets)
        if report is not None:
            report(file, done, len(files))
    names = classes or before.get("classes") or [f"class {index}" for index in range(largest + 1)]
    if len(names) <= largest:
        raise DataError(f"the shards in {folder} have the class index {largest}, but there are {len(names)} names.")
    splits = {split: {**_entry(split, found), "alt_label": label_keys[split]} for split, found in counts.items()}
    index = {**before, "name": before.get("name", folder.name), "splits": splits, "classes": list(names)}
    write_json(folder / INDEX_FILE, index)
    return index
