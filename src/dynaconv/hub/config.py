"""The content of ``config.json``: how to rebuild a network and to prepare images for it, in timm's layout."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError

from dynaconv import __version__
from dynaconv.errors import CheckpointError, check_type, listed

FORMAT = 1
"""Format number of the entry ``dynaconv``."""
CONVERTED_SUFFIX = "+dynaconv"
"""Suffix of a converted network's ``architecture``, so that no library takes it for the static network."""
_RESERVED = {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
_RESERVED |= {"num_classes", "in_chans"}
_PRETRAINED = ("mean", "std", "crop_pct", "crop_mode", "interpolation", "first_conv", "classifier", "license")
_OWN = ("style", "conversion", "training")
Described = TypeVar("Described")


def _one_sentence(described: type[Described]) -> type[Described]:
    """Let a class raise CheckpointError for a field of another type."""
    create = described.__init__

    @wraps(create)
    def checked(self: Any, *args: Any, **fields: Any) -> None:
        try:
            create(self, *args, **fields)
        except StrictDataclassFieldValidationError as error:
            # The cause names the field and its value; of a union, it lists one more error per type.
            reason = " ".join(str(error.__cause__ or error).split()).partition(" Errors: ")[0].rstrip(".")
            raise CheckpointError(f"{reason}.") from error

    described.__init__ = checked  # type: ignore[method-assign]
    return described


@_one_sentence
@strict
@dataclass(kw_only=True)
class HubConfig:
    """Description of a network. The types of its attributes are checked.

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

    Raises:
        CheckpointError: Two counts do not agree, a value is out of range, or an option would load other weights.
    """

    model: str
    model_options: dict[str, Any]
    num_classes: int
    in_channels: int
    class_names: tuple[str, ...] | None = None
    image_size: int
    mean: tuple[int | float, ...] = ()
    std: tuple[int | float, ...] = ()
    style: Literal["small", "photo"]
    crop_pct: int | float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    first_conv: Any = None
    classifier: Any = None
    license: str | None = None
    conversion: dict[str, Any] | None = None
    training: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if min(self.num_classes, self.in_channels, self.image_size) < 1:
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
        if min(self.std) <= 0:
            raise CheckpointError(f"'std' must be positive; got {list(self.std)}.")
        if taken := sorted(_RESERVED & self.model_options.keys()):
            raise CheckpointError(f"the options of a network for the hub must not include {listed(taken)}.")

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``config.json``, which `timm.create_model("local-dir:...")` can read too.

        Raises:
            CheckpointError: An option cannot be written as JSON.
        """
        size = [self.in_channels, self.image_size, self.image_size]
        config = {
            "architecture": self.model + ("" if self.conversion is None else CONVERTED_SUFFIX),
            "num_classes": self.num_classes,
            "label_names": self.class_names,
            "model_args": {"in_chans": self.in_channels, **self.model_options},
            "pretrained_cfg": {"input_size": size, "fixed_input_size": False, **self._known(_PRETRAINED)},
            "dynaconv": {"format": FORMAT, "version": __version__, **self._known(_OWN)},
        }
        if self.class_names is None:
            del config["label_names"]
        try:
            written: dict[str, Any] = json.loads(json.dumps(config, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"an option of {self.model} cannot be written as JSON: {error}.") from error
        return written

    def _known(self, keys: tuple[str, ...]) -> dict[str, Any]:
        return {key: value for key in keys if (value := getattr(self, key)) is not None}

    @classmethod
    def from_json(cls, written: Any, file: Path) -> Self:
        """Return the description in the content of a ``config.json``.

        Args:
            written: The content; None if there is no such file.
            file: Its path, for messages.

        Raises:
            CheckpointError: The content is missing, was changed, or was written by another library or a newer version.
        """
        own = (written or {}).get("dynaconv")
        if not isinstance(own, dict):
            raise CheckpointError(
                f"{file} does not exist or has no entry 'dynaconv'; save_pretrained writes one, and timm.create_model "
                f"loads files of timm."
            )
        if own.get("format") != FORMAT:
            raise CheckpointError(
                f"{file} has the format {own.get('format')!r} of dynaconv {own.get('version')}, and dynaconv "
                f"{__version__} reads the format {FORMAT}; run pip install --upgrade dynaconv."
            )
        try:
            pretrained, options, name = written["pretrained_cfg"], dict(written["model_args"]), written["architecture"]
            channels, height, width = pretrained["input_size"]
            if height != width:
                raise CheckpointError(f"the input is {height} x {width} pixels, but must be square")
            if options.pop("in_chans", channels) != channels:
                raise CheckpointError(
                    f"'in_chans' of 'model_args' differs from the {channels} channels of 'input_size'"
                )
            return cls(
                model=name.removesuffix(CONVERTED_SUFFIX) if isinstance(name, str) else name,
                model_options=options,
                num_classes=written["num_classes"],
                in_channels=channels,
                class_names=_as_tuple(written.get("label_names")),
                image_size=height,
                **pretrained_fields(pretrained),
                **{key: own[key] for key in _OWN if key in own},
            )
        except KeyError as error:
            raise CheckpointError(f"{file} has no entry {error}; it was changed after it was saved.") from error
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{file} does not describe a network: {str(error).rstrip('.')}.") from error


def pretrained_fields(pretrained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `HubConfig` that timm's ``pretrained_cfg`` holds."""
    return {key: _as_tuple(pretrained[key]) for key in _PRETRAINED if pretrained.get(key) is not None}


def creation_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of `timm.create_model` that neither load other weights nor are fields of a `HubConfig`."""
    check_type("model_options", options or {}, Mapping)
    return {key: value for key, value in (options or {}).items() if key not in _RESERVED}


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
