"""Prepares images for a network, and classifies them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import DataError
from dynaconv.hub.config import SMALL, HubConfig


def image_transform(config: HubConfig) -> Callable[[Any], Tensor]:
    """Return the transform from a PIL image of mode L or RGB to the normalised input, ``(C, H, W)``."""
    if config.style == SMALL:
        from dynaconv.train.data.transforms import BatchTransform, SmallTransform

        return SmallTransform(transform=BatchTransform(mean=config.mean, std=config.std), image_size=config.image_size)
    from timm.data.transforms_factory import create_transform

    transform: Callable[[Any], Tensor] = create_transform(
        input_size=(config.in_channels, config.image_size, config.image_size),
        is_training=False,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        crop_pct=config.crop_pct,
        crop_mode=config.crop_mode,
    )
    return transform


def prepare_image(config: HubConfig, image: Any) -> Tensor:
    """Load or convert an image to the network's input, ``(1, C, H, W)``.

    Raises:
        DataError: The file does not exist or is not an image, or the network has neither 1 nor 3 input channels.
        TypeError: ``image`` is neither a path nor a PIL image.
    """
    from PIL import Image

    from dynaconv.train.data.image_file import Mode, convert_image, named_in_errors, open_image

    if config.in_channels not in (1, 3):
        raise DataError(f"the network takes {config.in_channels} channels, and images have 1 or 3; pass it tensors.")
    mode: Mode = "L" if config.in_channels == 1 else "RGB"
    if isinstance(image, (str, Path)):
        opened = open_image(Path(image).expanduser(), mode)
    elif isinstance(image, Image.Image):
        with named_in_errors("the image", "give another one"):
            opened = convert_image(image, mode)
    else:
        raise TypeError(f"`image` must be a path or a PIL image; got {type(image).__name__}.")
    return image_transform(config)(opened)[None]


@torch.inference_mode()
def top_classes(network: nn.Module, config: HubConfig, x: Tensor, top: int) -> list[tuple[str, float]]:
    """Return the most likely classes of one image with their probabilities, the most likely first."""
    parameter = next(network.parameters())
    probabilities = network(x.to(parameter.device, parameter.dtype)).float().softmax(1)[0]
    names = config.class_names or tuple(map(str, range(config.num_classes)))
    values, indices = probabilities.topk(min(top, len(names)))
    return [(names[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True)]
