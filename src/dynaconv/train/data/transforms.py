"""Augmentation and normalisation: whole batches for small images, one image at a time for photographs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dynaconv.train.data.keyed import fresh_keys, uniform

# Positions of an image's random numbers by use. A number can be added at the end without changing the others.
_FLIP, _CROP, _ERASE, _NUMBERS = 0, slice(1, 3), slice(3, 8), 8


@dataclass(frozen=True, kw_only=True)
class BatchTransform:
    """Augment and normalise a batch of small images at once; every image draws its own random numbers.

    Attributes:
        mean, std: Mean and standard deviation of the pixel values in [0, 1], one per channel.
        padding: Width of a black border that is added before a random crop to the original size; 0 turns it off.
        flip: Whether half of the images are mirrored.
        erase_prob: Probability that a random rectangle of an image is set to the mean.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 0
    flip: bool = False
    erase_prob: float = 0.0

    def __call__(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Map ``uint8`` images to normalised ``float32`` of the same shape.

        Args:
            images: ``(B, C, H, W)``.
            keys: Random key of each image, ``int64`` ``(B,)``; by default new ones.
        """
        random = None
        if self.padding or self.flip or self.erase_prob:
            random = uniform(fresh_keys(len(images)) if keys is None else keys, _NUMBERS)
        if random is not None and self.padding:
            images = _random_crop(images, self.padding, random[_CROP])
        if random is not None and self.flip:
            images = torch.where((random[_FLIP] < 0.5)[:, None, None, None], images.flip(-1), images)
        mean = torch.tensor(self.mean)[:, None, None] * 255
        std = torch.tensor(self.std)[:, None, None] * 255
        normalised = (images.float() - mean) / std
        if random is not None and self.erase_prob:
            return _random_erase(normalised, self.erase_prob, random[_ERASE])
        return normalised


def _random_crop(images: Tensor, padding: int, random: Tensor) -> Tensor:
    batch, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = (random * (2 * padding + 1)).long()[:, :, None]
    rows = top + torch.arange(height)  # (B, H)
    columns = left + torch.arange(width)  # (B, W)
    cropped = padded[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def _random_erase(images: Tensor, probability: float, random: Tensor) -> Tensor:
    """Set a rectangle of 2 to 33 % of the area and aspect ratio 0.3 to 3.3 to zero, the mean of normalised pixels."""
    _, _, height, width = images.shape
    choice, size, shape, down, right = random
    chosen = choice < probability
    area = (0.02 + 0.31 * size) * height * width
    aspect = torch.exp((2 * shape - 1) * 1.19)
    tall = (area * aspect).sqrt().clamp(1, height)[:, None]
    wide = (area / aspect).sqrt().clamp(1, width)[:, None]
    top = down[:, None] * (height - tall)
    left = right[:, None] * (width - wide)
    rows, columns = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top) & (rows < top + tall)
    in_columns = (columns >= left) & (columns < left + wide)
    erased = chosen[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :]
    return images.masked_fill(erased[:, None], 0.0)


def resize_batch(images: Tensor, size: int) -> Tensor:
    """Resize ``uint8`` images ``(N, C, H, W)`` to ``size`` x ``size``, bilinear with antialiasing."""
    if images.shape[-2:] == (size, size):
        return images
    resized = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).to(torch.uint8)


def image_to_tensor(image: Image.Image, size: int) -> Tensor:
    """Convert a PIL image of mode L or RGB to ``uint8`` ``(C, size, size)``; the aspect ratio is not kept."""
    from torchvision.transforms.functional import pil_to_tensor

    tensor: Tensor = pil_to_tensor(image)
    return resize_batch(tensor[None], size)[0]


@dataclass(frozen=True, kw_only=True)
class SmallTransform:
    """Applies a `BatchTransform` to one PIL image."""

    transform: BatchTransform
    image_size: int

    def __call__(self, image: Image.Image) -> Tensor:
        """Map an image of mode L or RGB to normalised ``float32`` ``(C, size, size)``."""
        return self.transform(image_to_tensor(image, self.image_size)[None])[0]


def photo_transform(
    *,
    training: bool,
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    crop_pct: float,
    interpolation: str,
    options: dict[str, Any],
    crop_mode: str = "center",
) -> Callable[[Image.Image], Tensor]:
    """Return timm's ImageNet pipeline for one photograph.

    Args:
        training: Random resized crop and the augmentations in ``options``, else resize and centre crop.
        image_size: Side length of the result.
        mean, std: Mean and standard deviation of the pixel values in [0, 1], one per channel.
        crop_pct: Fraction of the resized side that the centre crop of evaluation keeps.
        interpolation: ``"bilinear"``, ``"bicubic"`` or, in training, ``"random"``.
        options: Further arguments of `timm.data.create_transform` for training.
        crop_mode: How evaluation crops, as for `timm.data.create_transform`.
    """
    from timm.data.transforms_factory import create_transform

    if not training and interpolation == "random":
        interpolation = "bicubic"
    pipeline: Callable[[Image.Image], Tensor] = create_transform(
        input_size=(len(mean), image_size, image_size),
        is_training=training,
        interpolation=interpolation,
        mean=mean,
        std=std,
        crop_pct=crop_pct,
        **(options if training else {"crop_mode": crop_mode}),
    )
    return pipeline
