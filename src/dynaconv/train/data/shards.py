"""Reads images from tar shards (WebDataset), on disk or at a URL, and the index with the number of images in each."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynaconv.errors import DataError, listed
from dynaconv.train.data.image_file import IMAGE_SUFFIXES, Mode

INDEX_FILE = "_info.json"
"""Name of the index, as in timm; its fields are timm's, plus our ``classes`` and ``shuffled``."""
_IMAGE_KEYS = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
_SHARDS_PREFIX = "wds/"
Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """The shards of one split.

    Attributes:
        location: Folder, URL, or a command ``pipe:...{}...`` in which the file's name replaces the braces.
        files: File names of the shards.
        counts: Number of images in each shard.
        mode: Mode that the images are converted to.
        label_key: Field of each sample's JSON that contains its class; empty if a ``.cls`` file contains it.
        shuffled: Whether the images were shuffled before they were packed, so that each shard is a random sample.
    """

    location: str
    files: tuple[str, ...]
    counts: tuple[int, ...]
    mode: Mode
    label_key: str = ""
    shuffled: bool = False

    def __len__(self) -> int:
        return sum(self.counts)

    def take(self, shards: Sequence[int]) -> "ShardSet":
        """Return a set with only the given shards."""
        return replace(self, files=tuple(self.files[i] for i in shards), counts=tuple(self.counts[i] for i in shards))


def is_remote(location: str) -> bool:
    """Return whether a location is a URL or a command and not a path."""
    return "://" in location or location.startswith("pipe:")


def shard_location(name: str, data_dir: str | None) -> str:
    """Return the location of the shards of ``wds/...``: ``data_dir``, or else the rest of the name."""
    return data_dir if data_dir is not None else name.removeprefix(_SHARDS_PREFIX)


def url_of(location: str, file: str) -> str:
    """Return the path, URL or command of one file at a location."""
    if "{}" in location:
        return location.replace("{}", file)
    url = f"{location.rstrip('/')}/{file}"
    # webdataset itself supports the URLs of other stores.
    return f"pipe:aws s3 cp {shlex.quote(url)} -" if url.startswith("s3://") else url


def _reason(error: Exception) -> str:
    """Return a short reason for a read error; webdataset's message about a failed command contains the whole call."""
    text = str(getattr(error, "strerror", None) or (error.args[0] if error.args else "") or type(error).__name__)
    failed = re.search(r"exit (-?\d+) \(", text)
    return f"the command that reads it ended with {failed[1]}" if failed else " ".join(text.split()).rstrip(".")


def read_index(location: str) -> dict[str, Any]:
    """Read the index at a location.

    Raises:
        DataError: There is no index, or it cannot be read.
    """
    from webdataset.gopen import gopen

    if location.startswith("pipe:") and "{}" not in location:
        raise DataError(f"the location {location!r} is a command without {{}}; put {{}} where a file's name goes.")
    url = url_of(location, INDEX_FILE)
    if not is_remote(location):
        if not Path(location).is_dir():
            raise DataError(
                f"there is no folder {location}; create one of shards with `dynaconv shard IMAGES -o {location}`."
            )
        if not Path(url).is_file():
            raise DataError(
                f"{location} has no index {INDEX_FILE}; if it has shards, create one with `dynaconv shard {location}`."
            )
    try:
        with gopen(url) as stream:
            index = json.loads(stream.read())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the index {url}: {_reason(error)}.") from error
    if not isinstance(index, dict) or not isinstance(index.get("splits"), dict):
        raise DataError(f"the index {url} has no splits; create one with `dynaconv shard`.")
    return index


def shards_of(index: dict[str, Any], split: str, location: str, mode: Mode) -> ShardSet:
    """Return the shards of one split of an index.

    Raises:
        DataError: The split does not exist or is inconsistent, or a shard on disk is missing.
    """
    url = url_of(location, INDEX_FILE)
    try:
        entry = index["splits"][split]
        files, counts = tuple(entry["filenames"]), tuple(int(count) for count in entry["shard_lengths"])
        total = int(entry["num_samples"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the index {url} does not describe the split {split!r}; its splits are {listed(index['splits'])}, each "
            f"with num_samples, filenames and shard_lengths."
        ) from error
    if len(files) != len(counts) or sum(counts) != total or len(set(files)) != len(files) or min(counts, default=0) < 1:
        raise DataError(
            f"the index {url} is inconsistent: {split} has {len(files)} files, {len(counts)} shard_lengths of "
            f"{sum(counts)} images in total, but num_samples {total}; create it again with `dynaconv shard`."
        )
    if not is_remote(location):
        missing = [file for file in files if not (Path(location) / file).is_file()]
        if missing:
            raise DataError(
                f"there is no shard {Path(location) / missing[0]}, which the index names; {len(missing)} of "
                f"{len(files)} are missing."
            )
    return ShardSet(
        location=location,
        files=files,
        counts=counts,
        mode=mode,
        label_key=str(entry.get("alt_label") or ""),
        shuffled=bool(index.get("shuffled", False)),
    )


def read_range(shards: ShardSet, order: Sequence[int], start: int, stop: int) -> Iterator[Sample]:
    """Read the samples ``start`` to ``stop`` of the shards concatenated in an order.

    Yields:
        webdataset's dictionaries with ``__key__``, ``__url__`` and the bytes of each file by its suffix, and with
        ``__number__``, the number of the sample, from 0 over all shards.

    Raises:
        DataError: A shard cannot be read, or has more or fewer samples than the index says.
    """
    for shard in order:
        first, last = max(start, 0), min(stop, shards.counts[shard])
        if first < last:
            yield from _read_samples(shards, shard, first, last)
        start, stop = start - shards.counts[shard], stop - shards.counts[shard]


def _read_samples(shards: ShardSet, shard: int, start: int, stop: int) -> Iterator[Sample]:
    url, count = url_of(shards.location, shards.files[shard]), shards.counts[shard]
    before, position = sum(shards.counts[:shard]), -1
    for position, sample in enumerate(all_samples(url)):
        if position >= count:
            break
        if start <= position < stop:
            yield {**sample, "__number__": before + position}
        # Read past the requested samples only at the end of the shard, to check that it ends there.
        if position == stop - 1 < count - 1:
            return
    if position != count - 1:
        found = f"more than {count:,}" if position >= count else f"{position + 1:,}"
        raise DataError(
            f"the shard {url} has {found} images, but the index says {count:,}; create the index again with "
            f"`dynaconv shard`."
        )


def all_samples(url: str) -> Iterator[Sample]:
    """Yield every sample of the shard at a path or URL; raises `DataError` if it cannot be read."""
    import tarfile

    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    try:
        with gopen(url) as stream:
            yield from group_by_keys(tar_file_expander([{"url": url, "stream": stream}]))
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read the shard {url}: {_reason(error)}.") from error


def sample_image(sample: Sample) -> bytes:
    """Return the encoded image of a sample; raises `DataError` if it has none."""
    for key in _IMAGE_KEYS:
        if key in sample:
            return bytes(sample[key])
    raise DataError(f"{describe(sample)} has no image ({', '.join(_IMAGE_KEYS)}).")


def sample_class(sample: Sample, label_key: str) -> int:
    """Return the class index of a sample; raises `DataError` if it has none."""
    try:
        return int(json.loads(sample["json"])[label_key]) if label_key else int(sample["cls"])
    except (KeyError, TypeError, ValueError) as error:
        source = f"a JSON file with the field {label_key!r}" if label_key else "a .cls file"
        raise DataError(f"{describe(sample)} has no class; it needs {source} with an integer.") from error


def describe(sample: Sample) -> str:
    """Return the name of a sample for a message, with the name of its file before packing."""
    try:
        original = f" ({json.loads(sample['json'])['filename']})"
    except (KeyError, TypeError, ValueError):
        original = ""
    return f"the image {sample['__key__']}{original} in the shard {sample['__url__']}"
