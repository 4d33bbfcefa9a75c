"""The results of the compatibility table: one CSV file, a row for each network and family."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import json
import platform
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _compatibility_checks import EXPORTS, Outcome

from dynaconv.files import write_csv

_PACKAGES = ("dynaconv", "torch", "onnx", "onnxscript", "onnxruntime", "openvino")
_LIBRARIES = {"smp": "segmentation-models-pytorch"}
"""Packages whose name is not that of the library in the table."""
_TYPES = {name: kind for name, kind in typing.get_type_hints(Outcome).items() if name != "seconds"}


def versions(library: str) -> str:
    """The packages, Python and system of this process, for results of a library's networks."""
    packages = (*_PACKAGES, _LIBRARIES.get(library, library))
    found = []
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name).partition('+')[0]}")
    return ", ".join([*found, f"Python {platform.python_version()}", f"{platform.system()} {platform.machine()}"])


def read(table: Path) -> dict[tuple[str, str], Outcome]:
    """The results by network and family; none if there is no file."""
    if not table.exists():
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        rows = [Outcome(**{name: _parsed(name, text) for name, text in row.items()}) for row in csv.DictReader(file)]
    return {each.key: each for each in rows}


def merged(older: Outcome | None, newer: Outcome) -> Outcome:
    """The newer result, with the older one's export if the newer one has none."""
    if older is None or newer.exported or not older.exported:
        return newer
    exports = {step: error for step, error in older.errors.items() if step in EXPORTS}
    return dataclasses.replace(
        newer,
        onnxruntime=older.onnxruntime,
        openvino=older.openvino,
        exported=True,
        errors={**newer.errors, **exports},
    )


def write(table: Path, outcomes: Iterable[Outcome]) -> None:
    """Write the results, with three digits of each measured number."""
    rows = [{name: _text(getattr(outcome, name)) for name in _TYPES} for outcome in outcomes]
    table.parent.mkdir(parents=True, exist_ok=True)
    write_csv(table, list(_TYPES), rows)


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(_text(each) for each in value)
    if isinstance(value, dict):
        return json.dumps(value) if value else ""
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _parsed(name: str, text: str) -> Any:
    kind = _TYPES[name]
    if kind is str:
        return text
    if kind is bool:
        return text == "True"
    if kind == dict[str, str]:
        return json.loads(text) if text else {}
    if not text:
        return None
    if kind == list[float] | None:
        return [float(each) for each in text.split()]
    return int(text) if kind in (int, int | None) else float(text)
