"""The configuration of a run. YAML, command line and Python give the same object, checked by the same parser."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from dynaconv.errors import RunError, listed, nearest_names
from dynaconv.train.data.module import ImageDataModule
from dynaconv.train.module import ClassificationModule
from dynaconv.train.named_yaml import ShippedYaml
from dynaconv.train.saving import CheckpointOptions

_GROUPS = ("data", "model", "trainer", "checkpoint")
_RESERVED = {"default_root_dir", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Configuration of a run.

    Attributes:
        seed: Seed of the weights, the order of the images, the augmentation and dropout.
        data: Arguments of `ImageDataModule`.
        model: Arguments of `ClassificationModule`.
        trainer: Arguments of `lightning.pytorch.Trainer`.
        checkpoint: Fields of `CheckpointOptions`.
    """

    seed: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Build a configuration from a nested dictionary, such as the content of a YAML recipe.

        Raises:
            RunError: A key is unknown, or one other than ``seed`` holds no dictionary.
        """
        known = ("seed", *_GROUPS)
        for key in values:
            if key not in known:
                raise RunError(f"unknown key {key!r} in the configuration; the keys are {listed(known)}.")
            if key != "seed" and not isinstance(values[key], Mapping):
                raise RunError(f"{key!r} must hold keys and values; got {values[key]!r}.")
        return cls(**{str(key): value for key, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries that `from_dict` accepts."""
        return {"seed": self.seed, **{name: dict(getattr(self, name)) for name in _GROUPS}}

    def with_changes(self, **changes: Any) -> "TrainConfig":
        """Return a copy with changed values; ``model__name="x"`` changes ``name`` in ``model``."""
        values = self.to_dict()
        for key, value in changes.items():
            group, _, inner = key.partition("__")
            if inner:
                values[group][inner] = value
            else:
                values[key] = value
        return TrainConfig.from_dict(values)


_RECIPES = ShippedYaml("recipe", "dynaconv.train", "recipes", suggestions=4)


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return _RECIPES.names()


def recipe_text(recipe: str | Path) -> str:
    """Return the YAML of a recipe, by its name or from a file.

    Raises:
        RunError: There is no such recipe or file.
    """
    return _RECIPES.text(recipe)


def load_recipe(recipe: str | Path) -> TrainConfig:
    """Read a recipe by its name or from a YAML file.

    Raises:
        RunError: There is no such recipe or file, or its content is not a configuration.
    """
    values = _RECIPES.load(recipe)
    if not isinstance(values, dict):
        raise RunError(
            f"the recipe {recipe} must hold keys {listed(('seed', *_GROUPS), quote=False)}; "
            f"got {type(values).__name__}."
        )
    return TrainConfig.from_dict(values)


def check_seed(seed: int, where: str = "--seed") -> None:
    """Check a seed; ``where`` is its name in the message.

    Raises:
        RunError: The seed is negative or has more than 32 bits, which the random generators do not accept.
    """
    if not 0 <= seed < 2**32:
        raise RunError(f"{where} is between 0 and {2**32 - 1}; got {seed}.")


@cache
def make_parser() -> LightningArgumentParser:
    """Return the parser of all arguments of the data module, the module and the Trainer.

    It is the parser of LightningCLI. LightningCLI itself parses and instantiates in one step, but a run has to create
    its folder between the two.
    """
    parser = LightningArgumentParser(prog="dynaconv train", description="", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=0, help="Seed of weights, image order, augmentation and dropout.")
    parser.add_lightning_class_args(ImageDataModule, "data")
    parser.add_lightning_class_args(ClassificationModule, "model")
    parser.add_class_arguments(Trainer, "trainer", instantiate=False, fail_untyped=False, skip=_RESERVED)
    parser.add_class_arguments(CheckpointOptions, "checkpoint")
    parser.link_arguments("seed", "data.seed")
    parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
    parser.link_arguments("data.in_channels", "model.in_channels", apply_on="instantiate")
    return parser


def resolve(config: TrainConfig, overrides: Sequence[str] = ()) -> Namespace:
    """Check a configuration and fill in every default.

    Args:
        config: The configuration.
        overrides: Command-line arguments that change it, such as ``["--trainer.max_epochs=3"]``.

    Raises:
        RunError: A key is unknown, or a value is invalid or missing.
    """
    parser = make_parser()
    groups = {name: dict(getattr(config, name)) for name in _GROUPS}
    given = [f"--seed={config.seed}", *(f"--{name}={json.dumps(group)}" for name, group in groups.items())]
    try:
        return parser.parse_args([*given, *overrides])
    except ArgumentError as error:
        raise RunError(_explain(str(error))) from error


def _explain(message: str) -> str:
    """Return the parser's message as one sentence, with the nearest names for an unknown key."""
    message = " ".join(message.split())
    flag = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
    if flag is not None:
        return unknown_flag(flag[1])
    nested = re.search(r"[Gg]roup '(\w+)' does not accept option '([\w.]+)'", message)
    if nested is None:
        return _explain_value(message)
    name = ".".join(nested.groups())
    known = [flag.removeprefix("--") for flag in flags()]
    return f"unknown option {name!r}; the nearest names are {listed(nearest_names(name, known))}."


def flags() -> list[str]:
    """Return every flag of the parser, without the forms that jsonargparse adds, such as ``--data.help``."""
    known = {flag for action in make_parser()._actions for flag in action.option_strings}
    return [*sorted(flag for flag in known if "." in flag and not flag.endswith((".help", "+"))), "--seed"]


def unknown_flag(flag: str, short_flags: Sequence[str] = ()) -> str:
    """Return the message for a flag that does not exist.

    Args:
        flag: The flag with its dashes.
        short_flags: Short flags of the command, which are suggested before the long ones.
    """
    name = flag.lstrip("-")
    plain = [known.lstrip("-") for known in short_flags] if "." not in name else []
    short = difflib.get_close_matches(name, plain, cutoff=0.6)
    long = nearest_names(name, [known.removeprefix("--") for known in flags()])
    near = [f"--{known}" for known in dict.fromkeys([*short, *long])][:3]
    return f"unknown option {flag}; did you mean {listed(near, last='or', quote=False)}?"


def _explain_value(message: str) -> str:
    if "the following arguments are required" in message:
        missing = [name for name in ("data.name", "model.name") if name in message]
        flags = {"data.name": "--data NAME", "model.name": "--model NAME, such as dcd_resnet18"}
        return f"the run lacks {listed(missing)}; pass {' and '.join(flags[name] for name in missing)}."
    mismatch = re.search(r'[Kk]ey "([\w.]+)":.*?(Expected a .*)', message)
    value = re.search(r"(?:Given|Got) value: (.*)$", message)
    if mismatch is None or value is None:
        return f"the configuration is invalid: {message}"
    types = re.findall(r"Expected an? (.+?)(?= - Expected|,? Given value|[.,]? Got value)", mismatch[2])
    names = [
        re.sub(r"<class '(\w+)'>", r"\1", kind).replace("typing.", "").replace("NoneType", "null") for kind in types
    ]
    return f"{mismatch[1]} takes {' or '.join(dict.fromkeys(names))}; got {value[1]!r}."


def to_yaml(resolved: Namespace) -> str:
    """Return a resolved configuration as the YAML of ``config.yaml``, without values that are ``None``."""
    return str(make_parser().dump(resolved, skip_link_targets=True))
