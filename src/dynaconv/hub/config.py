"""What ``config.json`` says: enough to build the network again and to prepare images for it, in timm's layout."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv import __version__
from dynaconv.errors import CheckpointError, listed

FORMAT = 1
"""Of the entry ``dynaconv``; a reader refuses a higher one."""
CONVERTED = "+dynaconv"
"""Ends ``architecture`` of a converted network, so that no library takes it for the static one."""
LOADS_WEIGHTS = ("cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments of `timm.create_model` that fetch or read other weights; they have no place in a description."""
SMALL, PHOTO = "small", "photo"


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """A network's description.

    Attributes:
        model: Its timm name; of a converted network the name of the static one.
        model_options: Further arguments of `timm.create_model`, as JSON can hold them.
        num_classes: Outputs of the classifier.
        in_channels: Channels of the input images.
        class_names: One name a class; None when they are not known.
        image_size: Side length of the input.
        mean, std: Of the pixel values in [0, 1], one a channel.
        style: ``"small"`` resizes the whole image to the input's size (bilinear, antialiased); ``"photo"`` resizes
            it and cuts out the centre, as timm does.
        crop_pct, crop_mode, interpolation: Of the style ``"photo"``, as timm has them.
        first_conv, classifier: Where timm finds them when it adapts the network to other channels or classes.
        license: Identifier of the weights' licence on the Hub; None when it is not known.
        conversion: What `dynaconv.conversion.conversion_of` says of a converted network; None for others.
        training: Facts about the run that trained it; None when they are not known.
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
        """Refuse what cannot belong together.

        Raises:
            CheckpointError: A count does not fit, a value is out of range, or an option would load other weights.
        """
        if self.num_classes < 1 or self.in_channels < 1 or self.image_size < 1:
            raise CheckpointError(
                f"a network for the hub has at least 1 class, channel and pixel; got num_classes={self.num_classes}, "
                f"in_channels={self.in_channels}, image_size={self.image_size}."
            )
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise CheckpointError(f"there are {len(self.class_names)} class names for {self.num_classes} classes.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.in_channels:
                raise CheckpointError(
                    f"{name!r} has {len(values)} values for {self.in_channels} channels; it has one a channel."
                )
        if any(value <= 0 for value in self.std):
            raise CheckpointError(f"'std' is positive; got {list(self.std)}.")
        if self.style not in (SMALL, PHOTO):
            raise CheckpointError(f"'style' is {SMALL!r} or {PHOTO!r}; got {self.style!r}.")
        if taken := sorted({*LOADS_WEIGHTS, "num_classes", "in_chans"} & self.model_options.keys()):
            raise CheckpointError(f"the options of a network for the hub do not include {listed(taken)}.")

    def to_json(self) -> dict[str, Any]:
        """What ``config.json`` holds; `timm.create_model("local-dir:...")` reads it too.

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
            # timm's words for a resize of the whole image.
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
            "architecture": self.model if self.conversion is None else self.model + CONVERTED,
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
        CheckpointError: It is not there, damaged, another library's or a newer version's.
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
        raise CheckpointError(f"{file} has the format {form!r}, no whole number; it was changed since it was saved.")
    if form > FORMAT:
        raise CheckpointError(
            f"{file} was written by dynaconv {written['dynaconv'].get('version')}, which is newer than {__version__}; "
            f"install it with pip install --upgrade dynaconv."
        )
    try:
        return _parse(written)
    except KeyError as error:
        raise CheckpointError(
            f"{file} does not say its {error.args[0]!r}; it was changed since it was saved."
        ) from error
    except (CheckpointError, TypeError) as error:
        raise CheckpointError(f"{file} does not describe a network: {str(error).rstrip('.')}.") from error


def _parse(written: Mapping[str, Any]) -> HubConfig:
    own = written["dynaconv"]
    pretrained = _entry(written, "pretrained_cfg", dict)
    options = dict(_entry(written, "model_args", dict))
    channels, height, width = (_whole(size) for size in _entry(pretrained, "input_size", list, length=3))
    if height != width:
        raise CheckpointError(f"the input is {height} x {width} pixels; it has to be square")
    if options.pop("in_chans", channels) != channels:
        raise CheckpointError(f"'in_chans' of 'model_args' is not the {channels} channels of 'input_size'")
    names = written.get("label_names")
    conversion = own.get("conversion")
    return HubConfig(
        model=_entry(written, "architecture", str).removesuffix(CONVERTED),
        model_options=options,
        num_classes=_whole(written["num_classes"]),
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


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"there is {value!r} where a whole number has to be")
    return value
