"""The content of ``config.json``: how to rebuild a network and to prepare images for it, in timm's layout."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv import __version__
from dynaconv.errors import CheckpointError, listed

FORMAT = 1
"""Format number of the entry ``dynaconv``; readers refuse a higher one."""
CONVERTED_SUFFIX = "+dynaconv"
"""Suffix of a converted network's ``architecture``, so that no library takes it for the static network."""
WEIGHT_OPTIONS = ("cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments of `timm.create_model` that load other weights; a description must not contain them."""
SMALL, PHOTO = "small", "photo"


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """Description of a network.

    Attributes:
        model: Its timm name; for a converted network, the name of the static one.
        model_options: Further arguments of `timm.create_model`, which JSON can store.
        num_classes: Number of classes.
        in_channels: Number of input channels.
        class_names: One name per class; None if unknown.
        image_size: Side length of the input in pixels.
        mean, std: Mean and standard deviation of pixel values in [0, 1], one per channel.
        style: ``"small"`` resizes the whole image to the input's size (bilinear, antialiased); ``"photo"`` resizes
            it and crops the centre, as timm does.
        crop_pct, crop_mode, interpolation: timm's settings for the style ``"photo"``.
        first_conv, classifier: Names of the modules that timm changes for other numbers of channels or classes.
        license: Identifier of the weights' licence on the Hub; None if unknown.
        conversion: Record of `dynaconv.conversion.conversion_of` for a converted network; None for others.
        training: Facts about the training run; None if unknown.
    """

    model: str
    model_options: dict[str, Any]
    num_classes: int
    in_channels: int
    class_names: tuple[str, ...] | None
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    style: str
    crop_pct: float
    crop_mode: str
    interpolation: str
    first_conv: Any = None
    classifier: Any = None
    license: str | None = None
    conversion: dict[str, Any] | None = None
    training: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            CheckpointError: Two counts do not agree, a value is out of range, or an option would load other weights.
        """
        if self.num_classes < 1 or self.in_channels < 1 or self.image_size < 1:
            raise CheckpointError(
                f"a network for the hub needs at least 1 class, channel and pixel; got num_classes={self.num_classes}, "
                f"in_channels={self.in_channels}, image_size={self.image_size}."
            )
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise CheckpointError(
                f"there are {len(self.class_names)} class names for {self.num_classes} classes; pass one per class."
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.in_channels:
                raise CheckpointError(
                    f"{name!r} has {len(values)} values for {self.in_channels} channels; it needs one per channel."
                )
        if any(value <= 0 for value in self.std):
            raise CheckpointError(f"'std' must be positive; got {list(self.std)}.")
        if self.style not in (SMALL, PHOTO):
            raise CheckpointError(f"'style' must be {SMALL!r} or {PHOTO!r}; got {self.style!r}.")
        if taken := sorted({*WEIGHT_OPTIONS, "num_classes", "in_chans"} & self.model_options.keys()):
            raise CheckpointError(f"the options of a network for the hub must not include {listed(taken)}.")

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``config.json``, which `timm.create_model("local-dir:...")` can read too.

        Raises:
            CheckpointError: An option cannot be written as JSON.
        """
        own = {"format": FORMAT, "version": __version__, "style": self.style}
        own |= {} if self.conversion is None else {"conversion": self.conversion}
        own |= {} if self.training is None else {"training": self.training}
        small = self.style == SMALL
        pretrained = {
            "input_size": [self.in_channels, self.image_size, self.image_size],
            "fixed_input_size": False,
            # timm's settings for resizing the whole image.
            "interpolation": "bilinear" if small else self.interpolation,
            "crop_pct": 1.0 if small else self.crop_pct,
            "crop_mode": "squash" if small else self.crop_mode,
            "mean": list(self.mean),
            "std": list(self.std),
            "first_conv": self.first_conv,
            "classifier": self.classifier,
            "license": self.license,
        }
        config = {
            "architecture": self.model if self.conversion is None else self.model + CONVERTED_SUFFIX,
            "num_classes": self.num_classes,
            **({} if self.class_names is None else {"label_names": list(self.class_names)}),
            "model_args": {"in_chans": self.in_channels, **self.model_options},
            "pretrained_cfg": {key: value for key, value in pretrained.items() if value is not None},
            "dynaconv": own,
        }
        try:
            text = json.dumps(config, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"an option of {self.model} cannot be written as JSON: {error}.") from error
        written: dict[str, Any] = json.loads(text)
        return written


def read_config(file: Path) -> HubConfig:
    """Read a ``config.json``.

    Raises:
        CheckpointError: The file does not exist, is damaged, or was written by another library or a newer version.
    """
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"the folder {file.parent} holds no {file.name}; save_pretrained writes one.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(written, dict) or not isinstance(written.get("dynaconv"), dict):
        raise CheckpointError(
            f"{file} was not written by dynaconv: it has no entry 'dynaconv'. "
            f"If it is timm's, timm.create_model loads it."
        )
    form = written["dynaconv"].get("format")
    if type(form) is not int:
        raise CheckpointError(f"{file} has the format {form!r}, not an integer; it was changed after it was saved.")
    if form > FORMAT:
        raise CheckpointError(
            f"{file} was written by dynaconv {written['dynaconv'].get('version')}, which is newer than {__version__}; "
            f"run pip install --upgrade dynaconv."
        )
    try:
        return _parse(written)
    except KeyError as error:
        raise CheckpointError(f"{file} has no entry {error.args[0]!r}; it was changed after it was saved.") from error
    except (CheckpointError, TypeError) as error:
        raise CheckpointError(f"{file} does not describe a network: {str(error).rstrip('.')}.") from error


def _parse(written: Mapping[str, Any]) -> HubConfig:
    own = written["dynaconv"]
    pretrained = _entry(written, "pretrained_cfg", dict)
    options = dict(_entry(written, "model_args", dict))
    channels, height, width = (_integer(size) for size in _entry(pretrained, "input_size", list, length=3))
    if height != width:
        raise CheckpointError(f"the input is {height} x {width} pixels, but must be square")
    if options.pop("in_chans", channels) != channels:
        raise CheckpointError(f"'in_chans' of 'model_args' differs from the {channels} channels of 'input_size'")
    names = written.get("label_names")
    conversion = own.get("conversion")
    return HubConfig(
        model=_entry(written, "architecture", str).removesuffix(CONVERTED_SUFFIX),
        model_options=options,
        num_classes=_integer(written["num_classes"]),
        in_channels=channels,
        class_names=None if names is None else tuple(map(str, _entry(written, "label_names", list))),
        image_size=height,
        mean=_numbers(pretrained, "mean"),
        std=_numbers(pretrained, "std"),
        style=_entry(own, "style", str),
        crop_pct=float(_entry(pretrained, "crop_pct", (int, float))),
        crop_mode=_entry(pretrained, "crop_mode", str),
        interpolation=_entry(pretrained, "interpolation", str),
        first_conv=pretrained.get("first_conv"),
        classifier=pretrained.get("classifier"),
        license=pretrained.get("license"),
        conversion=None if conversion is None else _entry(own, "conversion", dict),
        training=own.get("training") if isinstance(own.get("training"), dict) else None,
    )


def _entry(mapping: Mapping[str, Any], key: str, kind: type | tuple[type, ...], *, length: int | None = None) -> Any:
    value: Any = mapping[key]
    fits = isinstance(value, kind)
    if not fits or (length is not None and len(value) != length):
        raise TypeError(f"its {key!r} is {value!r}")
    return value


def _numbers(mapping: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = _entry(mapping, key, list)
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        raise TypeError(f"its {key!r} is {values!r}")
    return tuple(map(float, values))


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"it has {value!r} instead of an integer")
    return value
