"""Strong augmentation of whole batches: position, contrast and noise of every image depend on its own key.

The result depends only on the image and its key, not on the other images of the batch. Positions are therefore computed
by elementwise operations: the rounding of a matrix product depends on its number of rows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.errors import DataError
from dynaconv.train.data.keyed import image_keys, uniform

_NOISE_TABLE = 1 << 16
_NOISE_SEED = 2**33


@cache
def _noise_table() -> Tensor:
    """Return fixed numbers from N(0, 1), ``float32``, by the Box-Muller transform."""
    radius, angle = uniform(image_keys(_NOISE_SEED, 0, range(_NOISE_TABLE // 2)), 2)
    radius = (-2 * (1 - radius).log()).sqrt()
    angle = 2 * math.pi * angle
    return torch.cat([radius * angle.cos(), radius * angle.sin()])


def white_noise(offset: Tensor, sign: Tensor, count: int) -> Tensor:
    """Return noise from N(0, 1) for each image, read from a fixed table at an offset of the image.

    The table takes a tenth of the time of drawing every number.

    Args:
        offset: Offset in the table as a fraction, ``(B,)`` in [0, 1).
        sign: Values below 0.5 negate the numbers, ``(B,)`` in [0, 1).
        count: Numbers per image, at most 32,768.

    Returns:
        ``float32``, ``(B, count)``.
    """
    table = _noise_table()
    if count > len(table) // 2:
        raise DataError(f"noise is drawn for at most {len(table) // 2} pixels; got {count}; use a smaller image_size.")
    first = (offset * (len(table) - count)).long()
    numbers = table[first[:, None] + torch.arange(count)]
    return numbers * torch.where(sign < 0.5, -1.0, 1.0)[:, None]


def between(low: float, high: float, random: Tensor) -> Tensor:
    """Map numbers in [0, 1) to [low, high)."""
    return low + (high - low) * random


def log_between(low: float, high: float, random: Tensor) -> Tensor:
    """Map numbers in [0, 1) to [low, high), uniform in the logarithm; both bounds are positive."""
    return torch.exp(between(math.log(low), math.log(high), random))


def sample_affine(images: Tensor, matrix: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
    """Sample images at affinely transformed positions, bilinearly, with 0 outside.

    Args:
        images: ``float32``, ``(B, C, h, w)``.
        matrix: ``(xx, xy, x0, yx, yy, y0)``, each ``(B,)``: the output at (x, y), in [-1, 1], is the image at
            (xx x + xy y + x0, yx x + yy y + y0).
        size: Height H and width W of the output.

    Returns:
        ``float32``, ``(B, C, H, W)``.
    """
    height, width = size
    xx, xy, x0, yx, yy, y0 = (values[:, None, None] for values in matrix)
    x = (2 * torch.arange(width) + 1) / width - 1
    y = ((2 * torch.arange(height) + 1) / height - 1)[:, None]
    grid = torch.stack([xx * x + (xy * y + x0), yx * x + (yy * y + y0)], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class PictureAugment:
    """Random position, stroke, contrast, background and noise for light shapes on black.

    Values are drawn uniformly from their ranges, scale and stretch uniformly in the logarithm.

    Attributes:
        size: Side length of the result.
        rotation: Largest rotation to either side, in degrees.
        scale: Range of the shape's size; at 1 the whole stored image fills the result.
        stretch: Largest ratio of width to height, or of height to width; at least 1.
        shear: Largest horizontal shift of a pixel, as a fraction of its height above the centre.
        shift: Largest shift of the centre to either side, as a fraction of the side.
        blur: Range of the weight of a 3 x 3 average in the shape.
        gain: Range of the factor on the shape, which is clipped at 1; above 1 blurred strokes become thicker.
        contrast: Range of the difference between shape and background, as a fraction of the grey range.
        invert: Probability of a dark shape on a light background.
        gradient: Largest change of the background from one side of the image to the other, as a fraction of the grey
            range, in each direction.
        noise: Range of the standard deviation of white noise, as a fraction of the grey range.
    """

    size: int
    rotation: float = 25.0
    scale: tuple[float, float] = (0.65, 1.05)
    stretch: float = 1.2
    shear: float = 0.25
    shift: float = 0.1
    blur: tuple[float, float] = (0.0, 1.0)
    gain: tuple[float, float] = (0.9, 1.8)
    contrast: tuple[float, float] = (0.3, 1.0)
    invert: float = 0.5
    gradient: float = 0.3
    noise: tuple[float, float] = (0.0, 0.12)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Draw one picture of each image.

        Args:
            images: ``uint8``, ``(B, 1, h, w)``, the shape light on black.
            keys: Random key of each picture, ``int64`` ``(B,)``.

        Returns:
            ``uint8``, ``(B, 1, size, size)``.
        """
        draw = iter(uniform(keys, 17))
        shape = sample_affine(images.float().div_(255), self._matrix(draw), (self.size, self.size))
        blur, gain = between(*self.blur, next(draw)), between(*self.gain, next(draw))
        blurred = F.avg_pool2d(shape, 3, stride=1, padding=1)
        shape = (shape + each(blur) * (blurred - shape)).mul_(each(gain)).clamp_(max=1)
        contrast = between(*self.contrast, next(draw))
        background = next(draw) * (1 - contrast)
        inverted = next(draw) < self.invert
        background = torch.where(inverted, background + contrast, background)
        picture = shape.mul_(each(torch.where(inverted, -contrast, contrast))).add_(each(background))
        slope = torch.linspace(-0.5, 0.5, self.size)
        for axis in (slope, slope[:, None]):
            picture += each(between(-self.gradient, self.gradient, next(draw))) * axis
        strength = between(*self.noise, next(draw))
        noise = white_noise(next(draw), next(draw), self.size**2).view(-1, 1, self.size, self.size)
        picture += each(strength) * noise
        return picture.mul_(255).round_().clamp_(0, 255).to(torch.uint8)

    def _matrix(self, draw: Iterator[Tensor]) -> tuple[Tensor, ...]:
        angle = between(-self.rotation, self.rotation, next(draw)) * (math.pi / 180)
        scale = log_between(*self.scale, next(draw))
        stretch = log_between(1 / self.stretch, self.stretch, next(draw)).sqrt()
        shear = between(-self.shear, self.shear, next(draw))
        right, down = (between(-2 * self.shift, 2 * self.shift, next(draw)) for _ in range(2))
        # The inverse of: shear, stretch and scale, rotate, shift.
        cos, sin = angle.cos(), angle.sin()
        wide, tall = scale * stretch, scale / stretch
        yx, yy = -sin / tall, cos / tall
        xx, xy = cos / wide - shear * yx, sin / wide - shear * yy
        return xx, xy, -(xx * right + xy * down), yx, yy, -(yx * right + yy * down)


def each(values: Tensor) -> Tensor:
    """Reshape one value per image for broadcasting with ``(B, C, H, W)``."""
    return values[:, None, None, None]
