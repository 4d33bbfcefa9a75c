"""Reads a study from a YAML file, or a shipped study by name."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynaconv.errors import RunError, listed, nearest_names, received
from dynaconv.families.contract.checks import check_choice, check_integer
from dynaconv.study import STUDIES
from dynaconv.study.definition import (
    CLAIM_METRICS,
    FIGURE_KINDS,
    Claim,
    Contrast,
    Figure,
    Study,
    Table,
    Variant,
    check_keys,
    parse_seeds,
    stem,
    with_dotted_changes,
)
from dynaconv.train import RECIPES
from dynaconv.train.config import TrainConfig, load_recipe

_KEYS = (
    "title",
    "note",
    "base",
    "change",
    "seeds",
    "threads",
    "reference",
    "variants",
    "sweep",
    "tables",
    "contrasts",
    "figures",
    "claims",
)


def load_study(study: str | Path) -> Study:
    """Read a study by name or from a YAML file.

    Raises:
        RunError: There is no such study, or it is invalid.
    """
    return _build(Path(study).stem, check_keys(STUDIES.load(study), _KEYS, f"the study {study}"))


def _build(name: str, values: dict[str, Any]) -> Study:
    where = f"the study {name!r}"
    for key in ("base", "variants"):
        if not values.get(key):
            raise RunError(f"{where} has no {key!r}; a study holds at least `base` and `variants`.")
    threads = values.get("threads")
    if threads is not None:
        check_integer(f"{where}: `threads`", threads, error=RunError)
    base = with_dotted_changes(_base(values["base"], where), values.get("change") or {}, where)
    # Without a logger, because a study draws its own curves and hundreds of runs would leave as many logs.
    base = base.with_changes(trainer={"logger": False, **base.trainer})
    seeds = parse_seeds(values.get("seeds", 1), where)
    variants = _variants(values["variants"], values.get("sweep"), base, seeds, where)
    reference = values.get("reference", next(iter(variants)))
    _check_variant(reference, variants, f"{where}: `reference`")
    return Study(
        name=name,
        title=str(values.get("title", name)),
        note=" ".join(str(values.get("note", "")).split()),
        reference=reference,
        threads=threads,
        base=base,
        variants=variants,
        tables=_tables(values.get("tables"), variants, where),
        contrasts=_contrasts(values.get("contrasts"), variants, where),
        figures=_figures(values.get("figures"), variants, where),
        claims=_claims(values.get("claims"), variants, where),
    )


def _base(base: Any, where: str) -> TrainConfig:
    """Return the base recipe, given as a mapping, by a recipe's name or file, or by the name of a shipped study."""
    if isinstance(base, Mapping):
        return TrainConfig.from_dict(base)
    if base in STUDIES.names():
        return load_study(base).base
    if isinstance(base, str) and (base in RECIPES.names() or base.endswith((".yaml", ".yml"))):
        return load_recipe(base)
    near = listed(nearest_names(str(base), [*STUDIES.names(), *RECIPES.names()]))
    raise RunError(
        f"{where}: `base` is a recipe, or the name of one or of a study; got {received(base)}, the nearest: {near}."
    )


def _variants(values: Any, sweep: Any, base: TrainConfig, seeds: tuple[int, ...], where: str) -> dict[str, Variant]:
    if not isinstance(values, Mapping):
        raise RunError(f"{where}: `variants` must map names to changes; got {received(values)}.")
    sweep_changes = _sweep_changes(sweep, f"{where}: `sweep`")
    variants: dict[str, Variant] = {}
    for key, given in values.items():
        name, here = str(key), f"{where}, variant {str(key)!r}"
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
            raise RunError(
                f"{here}: a name may only have letters, digits, '.', '+', '-' and '_', since it names a folder."
            )
        given = check_keys(given or {}, ("title", "change", "seeds", "at"), here)
        if "at" in given and not sweep_changes:
            raise RunError(f"{here}: `at` sets changes at a value of a sweep, but the study has no `sweep`.")
        unswept = Variant(
            name=name,
            title=str(given.get("title", name)),
            config=with_dotted_changes(base, given.get("change") or {}, here),
            seeds=parse_seeds(given["seeds"], here) if "seeds" in given else seeds,
        )
        variants |= (
            _swept(unswept, sweep["key"], sweep_changes, given.get("at") or {}, here)
            if sweep_changes
            else {name: unswept}
        )
    return variants


def _sweep_changes(sweep: Any, where: str) -> dict[str, dict[str, Any]]:
    """Return the changes of each value of a sweep; empty without a sweep."""
    if sweep is None:
        return {}
    given = check_keys(sweep, ("key", "values"), where)
    key, values = given.get("key"), given.get("values")
    if not isinstance(key, str) or not isinstance(values, (list, Mapping)) or not values:
        raise RunError(
            f"{where} must hold `key`, such as model.lr, and `values`, a list or a mapping of values to changes; "
            f"got {received(sweep)}."
        )
    if isinstance(values, Mapping):
        return {str(value): changes for value, changes in values.items()}
    return {str(value): {key: value} for value in values}


def _swept(
    variant: Variant, key: str, sweep_changes: Mapping[str, Any], at: Mapping[Any, Any], where: str
) -> dict[str, Variant]:
    """Return a variant for each value of the sweep, named by it; `at` has further changes, or None to leave one out."""
    if not isinstance(at, Mapping):
        raise RunError(f"{where}: `at` must map values of the sweep to further changes; got {received(at)}.")
    own = {str(value): changes for value, changes in at.items()}
    for value in own:
        if value not in sweep_changes:
            raise RunError(f"{where}: `at` has {value!r}, but the values of the sweep are {listed(sweep_changes)}.")
    return {
        f"{variant.name}@{value}": replace(
            variant,
            name=f"{variant.name}@{value}",
            title=f"{variant.title}, {key.rpartition('.')[2]} {value}",
            config=with_dotted_changes(variant.config, {**changes, **own.get(value, {})}, where),
        )
        for value, changes in sweep_changes.items()
        if own.get(value, {}) is not None
    }


def _check_variant(name: Any, variants: Collection[str], where: str) -> None:
    if not isinstance(name, str) or name not in variants:
        near = listed(nearest_names(str(name), variants))
        raise RunError(f"{where} names {name!r}, which is not a variant; the nearest are {near}.")


def _chosen(given: dict[str, Any], variants: Mapping[str, Variant], where: str) -> tuple[str, ...]:
    names = given.get("variants", list(variants))
    if not isinstance(names, list) or not names:
        raise RunError(f"{where}: `variants` is a list of names; got {received(names)}.")
    return tuple(variant for name in names for variant in _members(name, variants, where).values())


def _tables(values: Any, variants: Mapping[str, Variant], where: str) -> tuple[Table, ...]:
    tables = []
    for name, here, given in _entries(values or {"all": {"title": "All variants"}}, "table", where, ("variants",)):
        tables.append(Table(name=name, title=str(given.get("title", name)), variants=_chosen(given, variants, here)))
    return tuple(tables)


def _contrasts(values: Any, variants: Mapping[str, Variant], where: str) -> tuple[Contrast, ...]:
    contrasts = []
    for name, here, given in _entries(values or {}, "contrast", where, ("variant", "against")):
        _require(given, ("variant", "against"), here)
        left, right = (_members(given[key], variants, f"{here}: `{key}`") for key in ("variant", "against"))
        if len(left) == len(right) == 1:
            pairs = tuple(zip(left.values(), right.values(), strict=True))
        else:
            pairs = tuple((left[value], right[value]) for value in left if value in right)
        if not pairs:
            raise RunError(f"{here}: `variant` and `against` have no value of the sweep in common.")
        contrasts.append(Contrast(name=name, title=str(given.get("title", name)), pairs=pairs))
    return tuple(contrasts)


def _require(given: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in given:
            raise RunError(f"{where} has no {key!r}.")


def _members(name: Any, variants: Mapping[str, Variant], where: str) -> dict[str, str]:
    """Return the variants that a name stands for, by their value of the sweep, which is empty without a sweep."""
    found = {variant.partition("@")[2]: variant for variant in variants if name in (variant, stem(variant))}
    if not found:
        _check_variant(name, [*variants, *map(stem, variants)], where)
    return found


def _figures(values: Any, variants: Mapping[str, Variant], where: str) -> tuple[Figure, ...]:
    figures = []
    for name, here, given in _entries(values or {}, "figure", where, ("kind", "variants")):
        kind = given.get("kind", "accuracy")
        check_choice(f"{here}: `kind`", kind, FIGURE_KINDS, error=RunError)
        chosen = _chosen(given, variants, here)
        if kind in ("rates", "gain", "frontier") and not all("@" in variant for variant in chosen):
            raise RunError(f"{here}: kind {kind!r} shows a sweep, and the study has none; add `sweep`.")
        figures.append(Figure(name=name, title=str(given.get("title", name)), kind=kind, variants=chosen))
    return tuple(figures)


def _claims(values: Any, variants: Mapping[str, Variant], where: str) -> tuple[Claim, ...]:
    if values is not None and not isinstance(values, list):
        raise RunError(f"{where}: `claims` is a list; got {received(values)}.")
    keys = ("text", "published", "metric", "variant", "against", "expect")
    claims = []
    for number, given in enumerate(values or (), 1):
        here = f"{where}, claim {number}"
        given = {"metric": "accuracy", "expect": "higher", **check_keys(given, keys, here)}
        _require(given, keys, here)
        check_choice(f"{here}: `metric`", given["metric"], CLAIM_METRICS, error=RunError)
        check_choice(f"{here}: `expect`", given["expect"], ("higher", "lower"), error=RunError)
        for key in ("variant", "against"):
            _check_variant(given[key], variants, here)
        claims.append(Claim(**{**given, "text": str(given["text"]), "published": str(given["published"])}))
    return tuple(claims)


def _entries(values: Any, kind: str, where: str, keys: Sequence[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield name, description for messages and values of each table, contrast or figure; all may have a title."""
    if not isinstance(values, Mapping):
        raise RunError(f"{where}: `{kind}s` must map names to entries; got {received(values)}.")
    for name, given in values.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", str(name)):
            raise RunError(f"{where}: `{kind}s` has {name!r}; a name may only have letters, digits, '-' and '_'.")
        here = f"{where}, {kind} {str(name)!r}"
        yield str(name), here, check_keys(given or {}, ("title", *keys), here)
