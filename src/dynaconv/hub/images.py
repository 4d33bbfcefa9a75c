"""Prepares images for a network."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from dynaconv.errors import DataError
from dynaconv.hub.config import HubConfig
from dynaconv.train.data.image_file import Mode, convert_image, named_in_errors, open_image
from dynaconv.train.predict import input_transform


def prepare_image(config: HubConfig, image: str | Path | Image.Image) -> Tensor:
    """Load or convert an image to the network's input, ``(1, C, H, W)``.

    Raises:
        DataError: The file does not exist or is not an image, or the network has neither 1 nor 3 input channels.
        TypeError: ``image`` is neither a path nor a PIL image.
    """
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
    return input_transform(vars(config))(opened)[None]
