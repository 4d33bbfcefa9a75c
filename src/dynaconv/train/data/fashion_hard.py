"""Fashion-MNIST under strong augmentation: hard enough that a network of 8 to 64 channels underfits."""

from dataclasses import replace
from pathlib import Path

import torch

from dynaconv.train.data.augment import PictureAugment
from dynaconv.train.data.drawn import DrawnImages, fixed_pictures
from dynaconv.train.data.embedded import fashion_mnist
from dynaconv.train.data.source import Source, TensorImages, stratified_split
from dynaconv.train.data.source_options import DrawnOptions

IMAGE_SIZE = 32
_VALIDATION_SHARE = 0.1
_SPLIT_SEED = 0
_MEAN, _STD = (0.5,), (0.33,)


def fashion_mnist_hard(options: DrawnOptions, *, data_dir: Path | None, image_size: int | None) -> Source:
    """Fashion-MNIST whose images are turned, scaled, sheared, moved, recoloured and disturbed.

    A tenth of the training images validates; these and the test images are drawn once.

    Args:
        options: How many different pictures.
        data_dir: As for `fashion_mnist`.
        image_size: Side length of the pictures; by default 32.

    Raises:
        DataError: As `fashion_mnist`.
    """
    plain = fashion_mnist(data_dir)
    size = image_size or IMAGE_SIZE
    draw = PictureAugment(size=size)
    assert isinstance(plain.train, TensorImages)
    first, second = stratified_split(plain.train.targets, _VALIDATION_SHARE, seed=_SPLIT_SEED)
    train, validation = plain.train.subset(first), plain.train.subset(second)
    order = torch.argsort(train.targets, stable=True)
    return replace(
        plain,
        name="fashion-mnist-hard",
        train=DrawnImages(
            bank=train.images[order],
            bank_targets=train.targets[order],
            draw=draw,
            length=len(order),
            distinct=options.distinct,
        ),
        validation=fixed_pictures(validation.images, validation.targets, draw, role="validation", at_least=1),
        test=fixed_pictures(plain.test.images, plain.test.targets, draw, role="test", at_least=1),
        mean=_MEAN,
        std=_STD,
        image_size=size,
        flip=False,
    )
