"""Images in tar shards (WebDataset), on disk or behind a URL, and the index that says how many each shard holds."""

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
"""Name that timm gives the index too; timm's own fields are kept, ``classes`` and ``shuffled`` are ours."""
_IMAGE_KEYS = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
_SHARDS_PREFIX = "wds/"
Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """The shards of one split.

    Attributes:
        location: Folder, URL, or a command ``pipe:...{}...`` whose braces take the file's name.
        files: Names of the shards.
        counts: Images in each.
        mode: What the images are converted to.
        label_key: Field of each sample's JSON that holds its class; empty where a ``.cls`` file does.
        shuffled: Whether the images were mixed before they were packed, so that each shard is a fair sample.
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
        """Return the set of some of the shards."""
        return replace(self, files=tuple(self.files[i] for i in shards), counts=tuple(self.counts[i] for i in shards))


def is_remote(location: str) -> bool:
    """Whether a location is a URL or a command rather than a path."""
    return "://" in location or location.startswith("pipe:")


def shard_location(name: str, data_dir: str | None) -> str:
    """Return where the shards of ``wds/...`` lie: ``data_dir``, or else what follows in the name."""
    return data_dir if data_dir is not None else name.removeprefix(_SHARDS_PREFIX)


def url_of(location: str, file: str) -> str:
    """Return the path, URL or command of one file at a location."""
    if "{}" in location:
        return location.replace("{}", file)
    url = f"{location.rstrip('/')}/{file}"
    # webdataset knows the other stores by their URLs.
    return f"pipe:aws s3 cp {shlex.quote(url)} -" if url.startswith("s3://") else url


def _reason(error: Exception) -> str:
    """Say in a few words why something could not be read; webdataset tells a whole call where a command failed."""
    text = str(getattr(error, "strerror", None) or (error.args[0] if error.args else "") or type(error).__name__)
    failed = re.search(r"exit (-?\d+) \(", text)
    return f"the command that reads it ended with {failed[1]}" if failed else " ".join(text.split()).rstrip(".")


def read_index(location: str) -> dict[str, Any]:
    """Read a location's index.

    Raises:
        DataError: There is none, or it cannot be read.
    """
    from webdataset.gopen import gopen

    if location.startswith("pipe:") and "{}" not in location:
        raise DataError(f"the location {location!r} is a command without {{}}; put {{}} where a file's name goes.")
    url = url_of(location, INDEX_FILE)
    if not is_remote(location):
        if not Path(location).is_dir():
            raise DataError(f"there is no folder {location}; `dynaconv shard IMAGES {location}` makes one of shards.")
        if not Path(url).is_file():
            raise DataError(
                f"{location} has no index {INDEX_FILE}; where it holds shards, `dynaconv shard {location}` makes one."
            )
    try:
        with gopen(url) as stream:
            index = json.loads(stream.read())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the index {url}: {_reason(error)}.") from error
    if not isinstance(index, dict) or not isinstance(index.get("splits"), dict):
        raise DataError(f"the index {url} has no splits; `dynaconv shard` makes one.")
    return index


def shards_of(index: dict[str, Any], split: str, location: str, mode: Mode) -> ShardSet:
    """Return one split of an index.

    Raises:
        DataError: The split is not there or contradicts itself, or a shard on disk is missing.
    """
    url = url_of(location, INDEX_FILE)
    try:
        held = index["splits"][split]
        files, counts = tuple(held["filenames"]), tuple(int(count) for count in held["shard_lengths"])
        total = int(held["num_samples"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the index {url} does not describe the split {split!r}; its splits are {listed(index['splits'])}, each "
            f"with num_samples, filenames and shard_lengths."
        ) from error
    if len(files) != len(counts) or sum(counts) != total or len(set(files)) != len(files) or min(counts, default=0) < 1:
        raise DataError(
            f"the index {url} contradicts itself: {split} has {len(files)} files, {len(counts)} shard_lengths of "
            f"{sum(counts)} images in all, and num_samples {total}; make it again with `dynaconv shard`."
        )
    if not is_remote(location):
        gone = [file for file in files if not (Path(location) / file).is_file()]
        if gone:
            raise DataError(
                f"there is no shard {Path(location) / gone[0]}, which the index names; {len(gone)} of {len(files)} are "
                f"missing."
            )
    return ShardSet(
        location=location,
        files=files,
        counts=counts,
        mode=mode,
        label_key=str(held.get("alt_label") or ""),
        shuffled=bool(index.get("shuffled", False)),
    )


def read_samples(shards: ShardSet, shard: int, start: int, stop: int) -> Iterator[Sample]:
    """Read the samples ``start`` to ``stop`` of one shard, in its order.

    Yields:
        webdataset's dictionaries: ``__key__``, ``__url__``, and the bytes of each file by its suffix; and
        ``__number__``, from 0 over all shards.

    Raises:
        DataError: The shard cannot be read, or holds more or fewer samples than the index says.
    """
    url, count = url_of(shards.location, shards.files[shard]), shards.counts[shard]
    before, position = sum(shards.counts[:shard]), -1
    for position, sample in enumerate(all_samples(url)):
        if position >= count:
            break
        if start <= position < stop:
            yield {**sample, "__number__": before + position}
        # Read on past the last sample only where that tells whether the shard ends there.
        if position == stop - 1 < count - 1:
            return
    if position != count - 1:
        found = "more" if position >= count else f"{position + 1:,}"
        raise DataError(
            f"the shard {url} holds {found} images where the index says {count:,}; make the index again with "
            f"`dynaconv shard`."
        )


def all_samples(url: str) -> Iterator[Sample]:
    """Read every sample of the shard at a path or URL; DataError where that fails."""
    import tarfile

    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    try:
        with gopen(url) as stream:
            yield from group_by_keys({**file, "__url__": url} for file in tar_file_iterator(stream))
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read the shard {url}: {_reason(error)}.") from error


def sample_image(sample: Sample) -> bytes:
    """Return the encoded image of a sample; DataError where it has none."""
    for key in _IMAGE_KEYS:
        if key in sample:
            data = sample[key]
            assert isinstance(data, bytes)
            return data
    raise DataError(f"{describe(sample)} has no image ({', '.join(_IMAGE_KEYS)}).")


def sample_class(sample: Sample, label_key: str) -> int:
    """Return the class index of a sample; DataError where it has none."""
    try:
        return int(json.loads(sample["json"])[label_key]) if label_key else int(sample["cls"])
    except (KeyError, TypeError, ValueError) as error:
        where = f"a JSON file with the field {label_key!r}" if label_key else "a .cls file"
        raise DataError(f"{describe(sample)} has no class: {where} with a whole number.") from error


def describe(sample: Sample) -> str:
    """Name a sample for a message, with the name its file had before it was packed."""
    try:
        original = f" ({json.loads(sample['json'])['filename']})"
    except (KeyError, TypeError, ValueError):
        original = ""
    return f"the image {sample['__key__']}{original} in the shard {sample['__url__']}"
