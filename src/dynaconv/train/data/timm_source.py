"""Data sets that timm's factory creates by a prefixed name: ``hfds/...``, ``wds/...``, ``torch/...``, ``tfds/...``."""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import IterableDataset

from dynaconv.errors import DataError, DynaconvError
from dynaconv.train.data.image_file import Mode, convert_image, named_in_errors, open_image
from dynaconv.train.data.source import Source, checked_class_names, photo_properties

TIMM_PREFIXES = ("hfds/", "hfids/", "tfds/", "torch/", "wds/")
_TRAIN, _TEST = "train", "validation"


@dataclass(frozen=True, kw_only=True)
class TimmImages:
    """A map-style data set of timm, with its images converted to one mode."""

    dataset: Any
    mode: Mode

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image, target = self.dataset[index][:2]
        with named_in_errors(f"the image {index} of the data set", "repair the data set"):
            return convert_image(image, self.mode), int(target)


def _open(path: str, mode: Mode) -> Image.Image:
    return open_image(Path(path), mode)


def timm_dataset(
    name: str, *, data_dir: Path | None, classes: int | None, channels: int | None, image_size: int | None
) -> Source:
    """Return the data set that timm's factory creates for ``name``; its split "validation" is the test set.

    Args:
        name: A name with one of timm's prefixes.
        data_dir: Folder, which is passed to timm as ``root``.
        classes: Number of classes, needed if the data set does not list them.
        channels: 1 for greyscale, 3 (or ``None``) for colour.
        image_size: Side length of the network's input.

    Raises:
        DataError: timm cannot create this data set.
    """
    from timm.data.dataset_factory import create_dataset

    mode: Mode = "L" if channels == 1 else "RGB"
    splits = []
    for split, is_training in ((_TRAIN, True), (_TEST, False)):
        try:
            # timm's readers also print the message of the error.
            with redirect_stdout(io.StringIO()):
                made = create_dataset(
                    name,
                    root=str(data_dir) if data_dir else None,
                    split=split,
                    is_training=is_training,
                    download=True,
                    # TensorFlow's decoder needs the mode; other images are converted here.
                    input_img_mode=mode if name.startswith("tfds/") else "",
                )
        except DynaconvError:
            raise
        # The factory has assertions and calls several optional packages, so any exception is possible.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"timm cannot create the data set {name!r} (split {split!r}): {reason}") from error
        # torchvision's data sets of folders have a loader that supports neither EXIF orientation nor 16 bits.
        if hasattr(made, "loader"):
            made.loader = partial(_open, mode=mode)
        splits.append(made if isinstance(made, IterableDataset) else TimmImages(dataset=made, mode=mode))
    names = checked_class_names(_class_names(splits[0]), classes, f"the data set {name!r}")
    return Source(
        name=name,
        train=splits[0],
        test=splits[1],
        class_names=names,
        **photo_properties(channels, image_size),
    )


def _class_names(split: Any) -> list[object] | None:
    inner = getattr(split, "dataset", split)
    reader = getattr(inner, "reader", None)
    mapping = getattr(reader, "class_to_idx", None) or getattr(inner, "class_to_idx", None)
    return sorted(mapping, key=mapping.__getitem__) if isinstance(mapping, dict) else None
