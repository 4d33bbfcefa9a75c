"""Print how many MB the packages of each extra take in this environment, as a Markdown table.

    .venv/bin/python tools/installed_sizes.py

A row adds the packages that the extra needs beyond torch and what torch needs. Sizes are of the installed files without
byte code, from the records of pip, so an extra that is not installed is named as such.
"""

import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

from dynaconv.markdown import markdown_table

EXTRAS = ("models", "train", "shards", "hub", "export", "int8", "docs", "all", "dev")
CUDA = ("nvidia-", "cuda-", "triton")


def _name(text: str) -> str:
    return text.lower().replace("_", "-").replace(".", "-")


@cache
def _requirements(name: str) -> list[str]:
    if name != "dynaconv":
        return distribution(name).requires or []
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return [*project["dependencies"], *(f"{line}; extra == '{extra}'" for extra, lines in extras for line in lines)]


def _needs(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for line in _requirements(name):
        needed = Requirement(line)
        if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield _name(needed.name), frozenset(needed.extras)


def closure(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """Return the packages that one with these extras installs.

    Raises:
        PackageNotFoundError: One of them is not installed.
    """
    found: dict[str, frozenset[str]] = {}
    todo = [(_name(name), extras)]
    while todo:
        name, extras = todo.pop()
        known = found.get(name)
        if known is None or not extras <= known:
            found[name] = extras | (known or frozenset())
            todo += _needs(name, found[name])
    return set(found)


def megabytes(names: set[str]) -> float:
    """Return the size of the installed files of these packages."""
    files = chain.from_iterable(distribution(name).files or () for name in names)
    paths = (Path(file.locate()) for file in files if "__pycache__" not in file.parts)
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def main() -> None:
    """Print the table."""
    torch = closure("torch")
    cuda = {name for name in torch if name.startswith(CUDA)}
    rows = [["torch alone", f"{megabytes({'torch'}):,.0f}"]]
    rows.append(["CUDA libraries and triton, which torch needs", f"{megabytes(cuda):,.0f}"])
    rows.append(["other packages that torch needs", f"{megabytes(torch - cuda - {'torch'}):,.0f}"])
    for extra in EXTRAS:
        try:
            added = closure("dynaconv", frozenset({extra})) - torch
        except PackageNotFoundError as error:
            rows.append([f"`{extra}`", f"not installed: {error.name}"])
        else:
            rows.append([f"`{extra}`", f"{megabytes(added):,.0f}"])
    print("\n".join(markdown_table(("packages", "MB"), rows, "lr")))


if __name__ == "__main__":
    main()
