"""The choice of how training images are augmented. Each alternative has its own options."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dynaconv.errors import DataError, check_range

Style = Literal["small", "photo"]


class Augmentation(ABC):
    """Base of the alternatives; on the command line ``--data.augment Photo`` chooses one."""

    style: ClassVar[Style | None] = None
    """How images are brought to the size of the network's input; None leaves it to the data set."""

    @abstractmethod
    def batch_options(self, padding: int, flip: bool) -> dict[str, Any]:
        """Return arguments of `BatchTransform`; none if batches of images are not augmented.

        Args:
            padding: Border in pixels, unless the user chose one.
            flip: Whether to mirror images, unless the user chose it.
        """


@dataclass(frozen=True, kw_only=True)
class Off(Augmentation):
    """Training images are only normalised."""

    def batch_options(self, padding: int, flip: bool) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Small(Augmentation):
    """Padding and random cropping of small images, and mirroring.

    Args:
        padding: Border in pixels, at least 0; by default an eighth of the side, or 0 for images drawn anew.
        flip: Mirror half of the images; by default on, unless that changes the class (digits).
        erase_prob: Probability that a random rectangle of an image is erased, in [0, 1].
    """

    style: ClassVar[Style | None] = "small"
    padding: int | None = None
    flip: bool | None = None
    erase_prob: float = 0.0

    def __post_init__(self) -> None:
        if self.padding is not None and self.padding < 0:
            raise DataError(f"Small.padding must be at least 0 pixels; got {self.padding}.")
        _check_probability("Small.erase_prob", self.erase_prob)

    def batch_options(self, padding: int, flip: bool) -> dict[str, Any]:
        return {
            "padding": padding if self.padding is None else self.padding,
            "flip": flip if self.flip is None else self.flip,
            "erase_prob": self.erase_prob,
        }


@dataclass(frozen=True, kw_only=True)
class Photo(Augmentation):
    """timm's augmentation for ImageNet: random resized crop, mirroring, colours and policies.

    Args:
        flip: Mirror half of the images; by default on, unless that changes the class (digits).
        erase_prob: Probability that a random rectangle of an image is erased, in [0, 1].
        rand_augment: A RandAugment or AutoAugment policy in timm's notation, such as "rand-m9-mstd0.5", which replaces
            the colour jitter.
        color_jitter: Strength of the jitter of brightness, contrast and saturation, at least 0; by default 0.4 without
            a policy.
        crop_scale: Range of the cropped area as a fraction of the image, in (0, 1].
    """

    style: ClassVar[Style | None] = "photo"
    flip: bool | None = None
    erase_prob: float = 0.0
    rand_augment: str | None = None
    color_jitter: float | None = None
    crop_scale: tuple[float, float] = (0.08, 1.0)

    def __post_init__(self) -> None:
        _check_probability("Photo.erase_prob", self.erase_prob)
        if self.color_jitter is not None and self.rand_augment is not None:
            raise DataError("Photo.rand_augment replaces Photo.color_jitter; leave one of them out.")
        if self.color_jitter is not None:
            check_range("Photo.color_jitter", self.color_jitter, 0, error=DataError)
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise DataError(f"Photo.crop_scale must be a range within (0, 1]; got {self.crop_scale}.")

    def batch_options(self, padding: int, flip: bool) -> dict[str, Any]:
        return {}

    def timm_options(self, flip: bool) -> dict[str, Any]:
        """Return arguments of timm's transform.

        Args:
            flip: Whether to mirror images if ``self.flip`` is None.
        """
        return {
            "hflip": 0.5 * (flip if self.flip is None else self.flip),
            "re_prob": self.erase_prob,
            "re_mode": "pixel",
            "auto_augment": self.rand_augment,
            "color_jitter": 0.4 if self.color_jitter is None else self.color_jitter,
            "scale": self.crop_scale,
        }


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise DataError(f"{name} must be a probability in [0, 1]; got {value}.")
