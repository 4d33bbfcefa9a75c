"""Fashion-MNIST with augmentation so strong that a network of 8 to 64 channels underfits."""

from pathlib import Path

import torch

from dynaconv.train.data.augment import PictureAugment
from dynaconv.train.data.drawn import drawn_source
from dynaconv.train.data.embedded import fashion_mnist
from dynaconv.train.data.source import Source, TensorImages, stratified_split
from dynaconv.train.data.source_options import DrawnOptions

IMAGE_SIZE = 32
_VALIDATION_SHARE = 0.1
_SPLIT_SEED = 0
_MEAN, _STD = (0.5,), (0.33,)


def fashion_mnist_hard(options: DrawnOptions, *, data_dir: Path | None, image_size: int | None) -> Source:
    """Return Fashion-MNIST with random rotation, scale, shear, shift, contrast, background and noise.

    A tenth of the training images is the validation set. It and the test images are augmented once.

    Args:
        options: The number of different pictures.
        data_dir: As for `fashion_mnist`.
        image_size: Side length of the pictures; by default 32.

    Raises:
        DataError: As for `fashion_mnist`.
    """
    plain = fashion_mnist(data_dir)
    size = image_size or IMAGE_SIZE
    assert isinstance(plain.train, TensorImages)
    first, second = stratified_split(plain.train.targets, _VALIDATION_SHARE, seed=_SPLIT_SEED)
    train, validation = plain.train.subset(first), plain.train.subset(second)
    order = torch.argsort(train.targets, stable=True)
    return drawn_source(
        "fashion-mnist-hard",
        PictureAugment(size=size),
        train=(train.images[order], train.targets[order]),
        validation=(validation.images, validation.targets),
        test=(plain.test.images, plain.test.targets),
        length=len(order),
        distinct=options.distinct,
        at_least=1,
        class_names=plain.class_names,
        mean=_MEAN,
        std=_STD,
        image_size=size,
        note=plain.note,
    )
