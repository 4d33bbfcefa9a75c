"""Packs an image folder into tar shards, and writes the index of shards."""

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dynaconv.errors import DataError
from dynaconv.files import write_json
from dynaconv.train.data.folder import image_folder
from dynaconv.train.data.image_file import check_image, open_image
from dynaconv.train.data.shards import INDEX_FILE, Sample, all_samples, read_index, sample_class
from dynaconv.train.data.tree import LeftOut, find_layout, split_word

DEFAULT_SHARD_SIZE = 100_000_000
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
# tar pads a file to blocks of 512 bytes and adds a header block; a sample has three files.
_BLOCK = 512
_SPLIT_NAME = re.compile(r"(?:^|[-_])([A-Za-z]+)[-_]?\d*$")


def parse_size(text: str) -> int:
    """Return the number of bytes of a size such as ``100MB``.

    Raises:
        DataError: The text is not a number with a unit, or the size is below one byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None or float(match[1]) * unit < 1:
        raise DataError(f"the size of a shard must be a number with kB, MB or GB, such as 100MB; got {text!r}.")
    return int(float(match[1]) * unit)


def pack_folder(
    folder: Path,
    out: Path,
    *,
    shard_size: int = DEFAULT_SHARD_SIZE,
    shard_images: int | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    verify: bool = False,
    report: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Pack an image folder into shards of about one size, in random order, with an index.

    The files are stored unchanged; no image is compressed again.

    Args:
        folder: A folder that `image_folder` accepts.
        out: Folder for the shards, which must be empty or not exist.
        shard_size: Bytes after which a shard ends.
        shard_images: Images after which a shard ends, if that comes first.
        test_fraction: Fraction held out if the folder has no test set.
        seed: Seed of that split and of the order.
        verify: Decode every image first, instead of checking its header.
        report: Called with the split, the number of images packed so far and their total number.
        say: Called once with a sentence about the splits and classes of the folder and the files that are left out.

    Returns:
        The index, as it was written.

    Raises:
        DataError: The folder is not an image folder, an image is corrupt, or ``out`` is not empty.
    """
    source = image_folder(folder, channels=None, image_size=None, test_fraction=test_fraction, split_seed=seed)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not an empty folder; name another one for the shards.")
    if shard_images is not None and shard_images < 1:
        raise DataError(f"a shard must have at least 1 image; got {shard_images}.")
    out.mkdir(parents=True, exist_ok=True)
    if say is not None:
        say(source.note)
    # The held-out set of a folder without test/ is called "validation", as timm calls it for ImageNet.
    held_out = {"test": source.test, "validation": source.validation}
    if "test" not in (find_layout(folder, LeftOut()).splits or held_out):
        held_out = {"validation": source.test}
    splits: dict[str, Any] = {}
    for split, images in {"train": source.train, **held_out}.items():
        if images is not None:
            limit = (shard_size, shard_images or len(images))
            splits[split] = _pack_split(folder, out, split, images, limit, seed, verify, report)
    index = {"name": folder.name, "splits": splits, "classes": list(source.class_names), "shuffled": True}
    write_json(out / INDEX_FILE, index)
    return index


def _pack_split(
    folder: Path,
    out: Path,
    split: str,
    images: Any,
    limit: tuple[int, int],
    seed: int,
    verify: bool,
    report: Callable[[str, int, int], None] | None,
) -> dict[str, Any]:
    from webdataset import TarWriter

    order = random.Random(f"{seed} {split}").sample(range(len(images)), len(images))
    files: list[str] = []
    counts: list[int] = []
    size, writer = 0, None
    try:
        for number, index in enumerate(order):
            sample = _make_sample(folder, images, index, f"{split}-{number:09d}", verify)
            if writer is None or size >= limit[0] or counts[-1] >= limit[1]:
                if writer is not None:
                    writer.close()
                files.append(f"{split}-{len(files):06d}.tar")
                counts.append(0)
                # A fixed time and owner, so that the same images give the same bytes.
                size, writer = 0, TarWriter(str(out / files[-1]), mtime=0, user="dynaconv", group="dynaconv")
            writer.write(sample)
            counts[-1] += 1
            size += sum(_BLOCK + -(-len(value) // _BLOCK) * _BLOCK for key, value in sample.items() if key[0] != "_")
            if report is not None:
                report(split, number + 1, len(order))
    finally:
        if writer is not None:
            writer.close()
    return {"name": split, "num_samples": sum(counts), "filenames": files, "shard_lengths": counts}


def _make_sample(folder: Path, images: Any, index: int, key: str, verify: bool) -> Sample:
    path, target = images.paths[index], images.targets[index]
    if verify:
        open_image(path, images.mode)
    check_image(path)
    data = path.read_bytes()
    description = {"filename": str(path.relative_to(folder)), "label": target}
    return {
        "__key__": key,
        path.suffix[1:].lower(): data,
        "cls": str(target).encode(),
        "json": json.dumps(description).encode(),
    }


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
    splits: dict[str, Any] = {}
    largest = -1
    for done, file in enumerate(files, 1):
        match = _SPLIT_NAME.search(Path(file).stem)
        if match is None:
            raise DataError(f"the name of {folder / file} has no split; rename it like train-000000.tar.")
        split = split_word(match[1]) or match[1].lower()
        label_key = before["splits"].get(split, {}).get("alt_label") or ""
        targets = _classes_of(folder, file, label_key)
        largest = max(largest, *targets)
        empty: dict[str, Any] = {
            "name": split,
            "num_samples": 0,
            "filenames": [],
            "shard_lengths": [],
            "alt_label": label_key,
        }
        entry = splits.setdefault(split, empty)
        entry["filenames"].append(file)
        entry["shard_lengths"].append(len(targets))
        entry["num_samples"] += len(targets)
        if report is not None:
            report(file, done, len(files))
    names = classes or before.get("classes") or [f"class {index}" for index in range(largest + 1)]
    if len(names) <= largest:
        raise DataError(f"the shards in {folder} have the class index {largest}, but there are {len(names)} names.")
    index = {**before, "name": before.get("name", folder.name), "splits": splits, "classes": list(names)}
    write_json(folder / INDEX_FILE, index)
    return index


def _classes_of(folder: Path, file: str, label_key: str) -> list[int]:
    found = [sample_class(sample, label_key) for sample in all_samples(str(folder / file))]
    if not found:
        raise DataError(f"the shard {folder / file} has no image; remove it.")
    return found
