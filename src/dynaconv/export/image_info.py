"""How to prepare an image for a network and name its classes, as written into an exported file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from dynaconv.errors import ExportError, received

PREFIX = "dynaconv"
"""Prefix of the entries in a file: ``dynaconv.mean`` in ONNX, the section ``dynaconv`` of OpenVINO's ``rt_info``."""
KEYS = ("input", "colors", "image_size", "mean", "std", "crop_mode", "crop_pct", "interpolation", "class_names")
"""Names of the entries."""
_COLORS = {1: "L", 3: "RGB"}


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """Description of the images that a network takes and of the classes that it tells apart.

    Attributes:
        mean, std: Mean and standard deviation of pixel values in [0, 1], one per channel. The network's input is
            ``(pixel / 255 - mean) / std``, with channels in the order red, green, blue.
        class_names: One name per class; None if unknown.
        image_size: Height and width to resize an image to; None takes those of the example.
        crop_mode, crop_pct, interpolation: timm's description of the resizing; None if unknown. ``"squash"`` resizes
            the whole image, ``"center"`` resizes it to ``image_size / crop_pct`` and crops the centre.

    Raises:
        ExportError: ``mean`` and ``std`` differ in length, ``std`` is not positive, or a class name has a line break.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None = None
    image_size: tuple[int, int] | None = None
    crop_mode: str | None = None
    crop_pct: float | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ExportError(
                f"`mean` and `std` need one value per channel; got mean={received(self.mean)} and "
                f"std={received(self.std)}."
            )
        if not min(self.std) > 0:
            raise ExportError(f"`std` must be positive; got {received(self.std)}.")
        if isinstance(self.class_names, str):
            raise ExportError(f"`class_names` must be a sequence of names; got the text {received(self.class_names)}.")
        for broken in self.class_names or ():
            if isinstance(broken, str) and len(broken.splitlines()) == 1:
                continue
            raise ExportError(
                f"a class name must be one line of text, because the file has one name per line; got "
                f"{received(broken)}."
            )

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """Return the description in the metadata of a checkpoint, in `vars` of a `HubConfig`, or in timm's config.

        Args:
            facts: ``mean`` and ``std``; ``class_names`` or timm's ``label_names``; ``image_size`` or timm's
                ``input_size``; ``style``, or timm's ``crop_mode``, ``crop_pct`` and ``interpolation``.

        Raises:
            ExportError: ``facts`` has no mean and std, or they cannot be used.
        """
        if not (facts.get("mean") and facts.get("std")):
            raise ExportError(
                f"the description of the images needs 'mean' and 'std'; got {', '.join(map(repr, facts)) or 'nothing'}."
            )
        names = facts.get("class_names") or facts.get("label_names")
        side = facts.get("image_size")
        resizing = {key: facts.get(key) for key in ("crop_mode", "crop_pct", "interpolation")}
        if facts.get("style") == "small":
            resizing = {"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bilinear"}
        return cls(
            mean=tuple(map(float, facts["mean"])),
            std=tuple(map(float, facts["std"])),
            class_names=None if names is None else tuple(map(str, names)),
            image_size=(side, side) if isinstance(side, int) else tuple(facts.get("input_size") or ())[1:] or None,
            **resizing,
        )

    def entries(self, *, size: tuple[int, int], preprocessing: bool) -> dict[str, str]:
        """Return the entries of a file, all text.

        ``mean`` and ``std`` are absent if the file normalises, so that whoever reads them does not normalise twice.

        Args:
            size: Height and width of the example, which `image_size` replaces.
            preprocessing: Whether the file takes pixels.
        """
        values = (
            "uint8 BHWC" if preprocessing else "float32 BCHW",
            _COLORS.get(len(self.mean)),
            _joined(self.image_size or size),
            None if preprocessing else _joined(self.mean),
            None if preprocessing else _joined(self.std),
            self.crop_mode,
            self.crop_pct,
            self.interpolation,
            None if self.class_names is None else "\n".join(self.class_names),
        )
        return {key: str(value) for key, value in zip(KEYS, values, strict=True) if value is not None}


def _joined(values: tuple[float, ...]) -> str:
    return ",".join(map(str, values))
