"""The configuration of a run. YAML, command line and Python give the same object, checked by the same parser."""

import difflib
import inspect
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from dynaconv.errors import RunError, as_number, check_range, check_type, listed, nearest_names, received, with_article
from dynaconv.train import RECIPES
from dynaconv.train.data.module import MOST, ImageDataModule
from dynaconv.train.data.sources import absolute_location
from dynaconv.train.factory import is_own_model
from dynaconv.train.module import ClassificationModule
from dynaconv.train.saving import CheckpointOptions

DEFAULT_EPOCHS = 30
"""Epochs of a run whose configuration sets neither epochs nor steps."""
_GROUPS = ("data", "model", "trainer", "checkpoint")
_CLASS_PROBLEM = re.compile(r"Problem with given class_path ('.+'):\n\s*(.+)")
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
                raise RunError(f"{key!r} must hold keys and values; got {received(values[key])}.")
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


def load_recipe(recipe: str | Path) -> TrainConfig:
    """Read a recipe by its name or from a YAML file.

    Raises:
        RunError: There is no such recipe or file, or its content is not a configuration.
    """
    values = RECIPES.load(recipe)
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

    It is the parser of LightningCLI. LightningCLI itself makes the Trainer in the constructor that parses. Here the
    Trainer follows from the data and the run folder, and the folder is made once the data is found.
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
    """Check a configuration, fill in every default and make its paths absolute.

    Args:
        config: The configuration. `foreign_options` of it are left out.
        overrides: Command-line arguments that change it, such as ``["--trainer.max_epochs=3"]``.

    Raises:
        RunError: A key is unknown, or a value is invalid or missing.
    """
    check_type("config", config, TrainConfig)
    values = {f"{group}.{key}": value for group in _GROUPS for key, value in getattr(config, group).items()}
    for name in values:
        _check_name(name)
    values["seed"] = config.seed
    changes = parse_overrides(overrides)
    if foreign_options(config, dict(changes).get("model.name")):
        del values["model.model_options"]
    given = [(name, _as_word(value)) for name, value in values.items()] + changes
    try:
        resolved = make_parser().parse_args([f"--{name}={value}" for name, value in given])
    except ArgumentError as error:
        raise RunError(_explain(error, given)) from error
    for name, hint in option_types().items():
        # The parser would hide the message of an alternative that refuses its options.
        kinds, value = choices(hint), resolved.get(name)
        if not kinds or value is None:
            continue
        if "class_path" not in value:
            _check_alternative(name, next(iter(kinds.values())), value, changes)
        elif (kind := kinds.get(value.class_path.rpartition(".")[2])) is not None:
            _check_alternative(name, kind, value.get("init_args", {}), changes)
    check_seed(resolved.seed)
    _check_trainer(resolved.trainer)
    resolved.data.name, resolved.data.data_dir = absolute_location(resolved.data.name, resolved.data.data_dir)
    return resolved


def _check_alternative(name: str, kind: type, values: Mapping[str, Any], changes: Sequence[tuple[str, str]]) -> None:
    """Raise `RunError` unless an alternative of an option takes these options of its own, and all that were given."""
    for key, _ in changes if is_dataclass(kind) else ():
        own = key.removeprefix(f"{name}.").removeprefix("init_args.").partition(".")[0]
        # The parser drops the options of an alternative that a later argument replaces.
        if key.startswith(f"{name}.") and own not in ("class_path", *(option.name for option in fields(kind))):
            raise RunError(f"--{key} has no effect with {kind.__name__} ({_describe_fields(kind)}); leave it out.")
    for option in fields(kind) if is_dataclass(kind) else ():
        # The parser accepts null for any type here.
        if values.get(option.name, option.default) is None and type(None) not in get_args(option.type):
            raise RunError(f"{name}.{option.name} must be {_words(option.type)}; got null.")
    kind(**values)


def _as_word(value: Any) -> str:
    """Return a value as on the command line."""
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    return plain if isinstance(plain, str) else json.dumps(plain, default=_as_plain)


def _as_plain(value: Any) -> Any:
    """Return a number of NumPy, which JSON does not know, as a number of Python."""
    if (number := as_number(value)) is None:
        raise TypeError(f"an option cannot be {with_article(type(value).__name__)}; pass what YAML can hold.")
    return int(number) if isinstance(value, Integral) else number


def foreign_options(config: TrainConfig, name: str | None) -> Mapping[str, Any]:
    """Return the ``model_options`` of a recipe for one of dynaconv's models that do not suit the model ``name``."""
    options = config.model.get("model_options") or {}
    suits = not options or name is None or config.model.get("name") in (None, name) or is_own_model(name)
    return {} if suits else options


def _check_trainer(trainer: Namespace) -> None:
    """Check options of the Trainer that would fail late or have no effect, and fill in the number of epochs."""
    if trainer.fast_dev_run:
        raise RunError(
            "trainer.fast_dev_run writes no checkpoint to test; for a short run pass --epochs 1 "
            "--trainer.limit_train_batches 2."
        )
    if trainer.max_epochs is not None and trainer.max_epochs < 1:
        raise RunError(f"--epochs is at least 1; got {trainer.max_epochs}.")
    if trainer.max_steps == 0 or trainer.max_steps < -1:
        raise RunError(f"--trainer.max_steps is at least 1; got {trainer.max_steps}.")
    for option, value in (("--epochs", trainer.max_epochs), ("--trainer.max_steps", trainer.max_steps)):
        if value is not None and value > MOST:
            raise RunError(f"{option} is at most {MOST:,}; got {received(value)}.")
    if trainer.limit_test_batches is not None:
        raise RunError(
            "trainer.limit_test_batches has no effect, because every run is tested on all images; leave it out."
        )
    if trainer.gradient_clip_val is not None:
        check_range("trainer.gradient_clip_val", trainer.gradient_clip_val, 0, open_low=True)
    elif trainer.gradient_clip_algorithm is not None:
        raise RunError("trainer.gradient_clip_algorithm needs trainer.gradient_clip_val, the largest gradient.")
    if trainer.max_epochs is None and trainer.max_steps == -1:
        trainer.max_epochs = DEFAULT_EPOCHS


def parse_overrides(words: Sequence[str], *, short: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Return the names and values of command-line arguments ``--name=value`` or ``--name value``.

    Args:
        words: The arguments.
        short: Other flags of the command, to suggest for an unknown one.

    Raises:
        RunError: A word is no such argument, or an option is unknown.
    """
    pairs: list[tuple[str, str | None]] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            _check_name(name, flags=short)
            pairs.append((name, value if equals else None))
        elif pairs and pairs[-1][1] is None:
            pairs[-1] = (pairs[-1][0], word)
        else:
            raise RunError(f"unknown argument {word!r}; see `dynaconv train --help`.")
    if any(value is None for _, value in pairs):
        raise RunError(f"--{next(name for name, value in pairs if value is None)} needs a value.")
    return [(name, value or "") for name, value in pairs]


@cache
def option_types() -> dict[str, Any]:
    """Return the type of every option by its dotted name."""
    classes: dict[str, Any] = {
        "data": ImageDataModule,
        "model": ClassificationModule,
        "trainer": Trainer,
        "checkpoint": CheckpointOptions,
    }
    types = {
        f"{group}.{name}": hint
        for group, kind in classes.items()
        for name, hint in get_type_hints(kind.__init__).items()
        if name != "return"
    }
    known = {flag[2:] for action in make_parser()._actions for flag in action.option_strings}
    return {"seed": int, **{name: hint for name, hint in types.items() if name in known}}


def _check_name(name: str, *, flags: Iterable[str] | None = None) -> None:
    """Raise `RunError` unless an option, or a key inside one, such as ``model.optimizer.betas``, may exist.

    Args:
        name: Its dotted name.
        flags: If the name is a flag, other flags of the command.
    """
    known = option_types()
    if name in known or (".".join(name.split(".")[:2]) in known and name.count(".") > 1):
        return
    if flags is None:
        raise RunError(f"unknown option {name!r}; did you mean {listed(nearest_names(name, known), last='or')}?")
    plain = [] if "." in name else [flag.removeprefix("--") for flag in flags]
    near = [*difflib.get_close_matches(name, plain), *nearest_names(name, known)][:3]
    raise RunError(f"unknown option --{name}; did you mean {listed((f'--{n}' for n in near), last='or', quote=False)}?")


def _explain(error: ArgumentError, given: Sequence[tuple[str, str]]) -> str:
    """Return one sentence about the first option that the parser does not accept."""
    required = {"data.name": "--data NAME", "model.name": "--model NAME, such as dcd_resnet18"}
    missing = [name for name in required if name not in dict(given)]
    if missing:
        return f"the run lacks {listed(missing)}; pass {' and '.join(required[name] for name in missing)}."
    by_option: dict[str, list[tuple[str, str]]] = {}
    for name, value in given:
        by_option.setdefault(".".join(name.split(".")[:2]), []).append((name, value))
    for option, pairs in by_option.items():
        # The first two are required; a later word for the same option wins.
        words = ["--data.name=digits", "--model.name=static_resnet18", *(f"--{name}={value}" for name, value in pairs)]
        try:
            make_parser().parse_args(words)
        except ArgumentError as reason:
            found = _CLASS_PROBLEM.search(str(reason))
            if found and not choices(option_types()[option]):
                return f"{option} does not take {found[1]}: {found[2].rstrip('.')}."
            # A later value of the option itself replaces earlier ones.
            last = max((number for number, (name, _) in enumerate(pairs) if name == option), default=0)
            shown = " ".join(value or "''" if name == option else f"--{name}={value}" for name, value in pairs[last:])
            return f"{option} must be {_words(option_types()[option])}; got {shown}."
    return f"the configuration is invalid: {' '.join(str(error).split())}"


def choices(hint: Any) -> dict[str, type]:
    """Return the alternatives of an option by name, for a type that is an abstract class or a dataclass; else none."""
    found: dict[str, type] = {}
    for kind in get_args(hint) or (hint,):
        if inspect.isabstract(kind) and kind.__module__.startswith("dynaconv."):
            found |= {alternative.__name__: alternative for alternative in kind.__subclasses__()}
        elif is_dataclass(kind) and isinstance(kind, type):
            found[kind.__name__] = kind
    return found


def _words(hint: Any) -> str:
    """Describe a type for a message."""
    if get_origin(hint) is Literal:
        return listed(map(str, get_args(hint)), last="or", quote=False)
    if get_origin(hint) in (tuple, list):
        return f"a list of {len(get_args(hint))} values" if get_origin(hint) is tuple else "a list"
    if get_origin(hint) is dict:
        return "keys and values"
    if get_args(hint):
        return listed(dict.fromkeys(_words(kind) for kind in get_args(hint)), last="or", quote=False)
    plain = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
        Any: "any value",
    }
    if hint in plain:
        return plain[hint]
    alternatives = [f"{name} ({_describe_fields(kind)})" for name, kind in choices(hint).items()]
    return listed(alternatives or [getattr(hint, "__name__", str(hint))], last="or", quote=False)


def _describe_fields(kind: Any) -> str:
    return ", ".join(f"{field.name}: {_words(field.type)}" for field in fields(kind)) or "no options"


def to_yaml(resolved: Namespace) -> str:
    """Return a resolved configuration as the YAML of ``config.yaml``, without values that are ``None``."""
    return str(make_parser().dump(resolved, skip_link_targets=True))
