"""Definition of a study: a base recipe, named variants, seeds, and the contents of the report."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dynaconv.errors import RunError, listed, nearest_names, received
from dynaconv.train.config import TrainConfig, check_seed

FigureKind = Literal["accuracy", "loss_by_step", "loss_by_second", "rates", "gain", "frontier"]
ClaimMetric = Literal["accuracy", "parameters", "madds", "step_seconds", "latency_seconds"]
FIGURE_KINDS: tuple[FigureKind, ...] = get_args(FigureKind)
CLAIM_METRICS: tuple[ClaimMetric, ...] = get_args(ClaimMetric)
_SECTIONS = ("data", "model", "trainer")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One variant of the base recipe.

    Attributes:
        name: Its key in the study, and the name of its folder.
        title: Title in tables.
        config: The recipe; the seed is set for each run.
        seeds: Seeds, one per run.
    """

    name: str
    title: str
    config: TrainConfig
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of variants."""

    name: str
    title: str
    variants: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of the given kind, which shows variants."""

    name: str
    title: str
    kind: FigureKind
    variants: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Pairs of variants whose difference is reported: one pair, or in a sweep one pair per value.

    Attributes:
        name: Its key in the study.
        title: The property that the two share, such as "equal parameters".
        pairs: Names of a variant and of the variant it is compared with.
    """

    name: str
    title: str
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A published claim, and the comparison of two variants that tests it.

    Attributes:
        text: The claim.
        published: The published numbers.
        metric: The quantity that is compared.
        variant, against: The two variants.
        expect: Whether `variant` should have the higher or the lower value.
    """

    text: str
    published: str
    metric: ClaimMetric
    variant: str
    against: str
    expect: Literal["higher", "lower"]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study.

    Attributes:
        name: Stem of the file's name.
        title: Title, one line.
        note: Text that a reader of the results must know.
        reference: The variant that the others are compared with.
        threads: Number of threads of each run; None leaves it unchanged.
        base: The recipe before any variant's changes.
        variants: All variants, in the order of the file.
        tables, contrasts, figures, claims: Contents of the report.
    """

    name: str
    title: str
    note: str
    reference: str
    threads: int | None
    base: TrainConfig
    variants: Mapping[str, Variant]
    tables: tuple[Table, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    figures: tuple[Figure, ...] = ()
    claims: tuple[Claim, ...] = field(default=())

    def named(self, name: str) -> tuple[str, ...]:
        """Return the variants that a name stands for: one, or all values of a sweep; none if the name is unknown."""
        return tuple(variant for variant in self.variants if name in (variant, stem(variant)))


def stem(variant: str) -> str:
    """Return a variant's name without the value of the sweep."""
    return variant.partition("@")[0]


def check_keys(values: Any, known: tuple[str, ...], where: str) -> dict[str, Any]:
    """Return a mapping as a dictionary if all of its keys are known.

    Raises:
        RunError: It is not a mapping, or it has an unknown key.
    """
    if not isinstance(values, Mapping):
        raise RunError(f"{where} must hold keys and values; got {received(values)}.")
    for key in values:
        if key not in known:
            near = nearest_names(str(key), known, count=1)[0]
            raise RunError(
                f"{where} has the unknown key {key!r}; the keys are {listed(known)}, and the nearest is {near!r}."
            )
    return dict(values)


def with_dotted_changes(config: TrainConfig, changes: Any, where: str) -> TrainConfig:
    """Return a copy of a recipe with values changed.

    Args:
        config: The recipe.
        changes: Dotted paths to values, such as ``{"model.model_options.family_options.blocks": 2}``.
        where: Description of the place in the file, for messages.

    Raises:
        RunError: A path does not start at data, model or trainer, or leads into a value.
    """
    if not isinstance(changes, Mapping):
        raise RunError(f"{where}: `change` maps dotted keys to values, such as model.lr: 0.1; got {received(changes)}.")
    values = copy.deepcopy(config.to_dict())
    for path, value in changes.items():
        *above, key = str(path).split(".")
        if not above or above[0] not in _SECTIONS or not all((*above, key)):
            raise RunError(
                f"{where} changes {path!r}; a key starts with data., model. or trainer., such as model.lr, and seeds "
                f"belong under `seeds`."
            )
        inner = values
        for name in above:
            if inner.get(name) is None:
                inner[name] = {}
            inner = inner[name]
            if not isinstance(inner, dict):
                raise RunError(f"{where} changes {path!r}, but {name!r} is a value without further keys.")
        inner[key] = copy.deepcopy(value)
    return TrainConfig.from_dict(values)


def parse_seeds(values: Any, where: str) -> tuple[int, ...]:
    """Return the seeds for a count such as ``5`` (0 to 4) or a list such as ``[0, 3]``.

    Raises:
        RunError: The value is neither, is empty, or repeats a seed.
    """
    seeds = list(range(values)) if type(values) is int else values
    if not isinstance(seeds, (list, tuple)) or not seeds or any(type(seed) is not int for seed in seeds):
        raise RunError(f"{where}: `seeds` is a count of at least 1 or a list of integers; got {received(values)}.")
    if len(set(seeds)) < len(seeds):
        raise RunError(f"{where}: `seeds` names a seed twice; got {received(values)}.")
    for seed in seeds:
        check_seed(seed, f"{where}: a seed of `seeds`")
    return tuple(seeds)
