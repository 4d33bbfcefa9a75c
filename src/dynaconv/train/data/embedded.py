"""Small data sets in memory: scikit-learn's digits and Fashion-MNIST."""

import gzip
import zlib
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from torch import Tensor

from dynaconv.errors import DataError
from dynaconv.train.data.bank_cache import cache_folder
from dynaconv.train.data.source import Source, TensorImages, stratified_split

FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_DIGITS_TEST_FRACTION = 0.25
_DIGITS_SPLIT_SEED = 0
_IDX_STEMS = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)


def digits() -> Source:
    """Return scikit-learn's 1,797 handwritten digits of 8x8 pixels; a fixed quarter of each class is the test set."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # The pixels are integers from 0 to 16.
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    everything = TensorImages(images=images, targets=torch.from_numpy(bunch.target).long())
    train, test = stratified_split(everything.targets, _DIGITS_TEST_FRACTION, seed=_DIGITS_SPLIT_SEED)
    return Source(
        name="digits",
        train=everything.subset(train),
        test=everything.subset(test),
        class_names=tuple(str(digit) for digit in range(10)),
        channels=1,
        mean=(0.305,),
        std=(0.376,),
        image_size=16,
        style="small",
        flip=False,
    )


def fashion_mnist(data_dir: Path | None) -> Source:
    """Return Fashion-MNIST: 60,000 training and 10,000 test images of 28x28 pixels.

    Args:
        data_dir: Folder with the four IDX files. By default the folder of Debian's package; without that the files are
            downloaded to the user's cache.

    Raises:
        DataError: The files do not exist and cannot be downloaded, or do not match each other.
    """
    folder = _fashion_folder(data_dir)
    train, test = (_read_pair(folder, images, labels) for images, labels in _IDX_STEMS)
    return Source(
        name="fashion-mnist",
        train=train,
        test=test,
        class_names=FASHION_CLASSES,
        channels=1,
        mean=(0.2860,),
        std=(0.3530,),
        image_size=28,
        style="small",
    )


def _find(folder: Path, stem: str) -> Path | None:
    candidates = (folder / f"{stem}.gz", folder / stem)
    return next((path for path in candidates if path.is_file()), None)


def _missing(folder: Path) -> list[str]:
    return [f"{stem}.gz" for pair in _IDX_STEMS for stem in pair if _find(folder, stem) is None]


def _fashion_folder(data_dir: Path | None) -> Path:
    if data_dir is not None:
        raw = data_dir / "FashionMNIST" / "raw"
        folder = raw if raw.is_dir() else data_dir
        if not folder.is_dir():
            raise DataError(f"data_dir={str(data_dir)!r} is not a folder; pass the folder with the four IDX files.")
        if missing := _missing(folder):
            raise DataError(f"the folder {folder} has no {missing[0]}; Fashion-MNIST has four files, {_all_names()}.")
        return folder
    if not _missing(DEBIAN_FASHION_MNIST):
        return DEBIAN_FASHION_MNIST
    return _download()


def _all_names() -> str:
    return ", ".join(f"{stem}.gz" for pair in _IDX_STEMS for stem in pair)


def _download() -> Path:
    cache = cache_folder()
    raw = cache / "FashionMNIST" / "raw"
    if not _missing(raw):
        return raw
    try:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(str(cache), train=True, download=True)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"Fashion-MNIST is not on this machine and its download failed ({str(error).splitlines()[0]}); "
            f"install it with `apt install dataset-fashion-mnist`, or pass data_dir, a folder with the four IDX files."
        ) from error
    return raw


def _read_pair(folder: Path, images_stem: str, labels_stem: str) -> TensorImages:
    images_path, labels_path = _find(folder, images_stem), _find(folder, labels_stem)
    assert images_path is not None
    assert labels_path is not None
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
        raise DataError(
            f"{images_path} has the shape {tuple(images.shape)} and {labels_path} {tuple(labels.shape)}; "
            f"they must be N images and N labels."
        )
    if len(labels) == 0 or int(labels.max()) >= len(FASHION_CLASSES):
        raise DataError(f"{labels_path} must hold labels from 0 to {len(FASHION_CLASSES) - 1}, at least one.")
    return TensorImages(images=images.unsqueeze(1), targets=labels.long())


def read_idx(path: Path) -> Tensor:
    """Read one IDX file of unsigned bytes, gzip-compressed or plain; ``uint8``, of one to three dimensions.

    Raises:
        DataError: The file is missing or damaged, or has another element type.
    """
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    try:
        raw = path.read_bytes()
        # torchvision reads plain files alone, and Debian's are compressed.
        with NamedTemporaryFile() as plain:
            plain.write(gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw)
            plain.flush()
            values: Tensor = read_sn3_pascalvincent_tensor(plain.name)
        if values.dtype != torch.uint8:
            raise ValueError(f"elements of type {values.dtype}")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the IDX file {path}: {reason}; fetch the file again.") from error
    # torchvision raises these for a damaged file, without a message.
    except (AssertionError, KeyError, ValueError) as error:
        raise DataError(f"{path} is not a complete IDX file of unsigned bytes; fetch the file again.") from error
    return values
