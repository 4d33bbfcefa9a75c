"""The results of the inference benchmark: one JSON file that grows, whole at every moment."""

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from _latency_cells import Cell

from dynaconv.files import write_text
from dynaconv.measure.machine import processor_model

PACKAGES = ("torch", "timm", "onnxruntime", "openvino")
Row = dict[str, Any]
_CELL_KEYS = ("architecture", "side", "batch", "threads", "network", "runtime")
_GROWTH_KEYS = ("axis", "architecture", "side", "runtime", "batch", "threads", "network", "value")


def processor() -> str:
    """The processor's name, with the widest vectors it has and the number of processors."""
    text = ""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
    vectors = next((title for flag, title in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in text), "")
    parts = [processor_model(), vectors, f"{os.cpu_count()} CPUs"]
    return ", ".join(part for part in parts if part)


def here() -> Row:
    """What a session's numbers belong to."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    load = [round(value, 2) for value in os.getloadavg()]
    return {"date": time.strftime("%Y-%m-%d"), "processor": processor(), "versions": versions, "load": load}


class Store:
    """The file; everything that is written is read again first, since another run may have written meanwhile.

    Raises:
        ValueError: The file is not one of these.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = self._read()

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"sessions": {}, "cells": [], "growth": []}
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path} is no JSON ({error}); move it away or pass another --out.") from error
        if not isinstance(data, dict) or set(data) != {"sessions", "cells", "growth"}:
            raise ValueError(f"{self.path} holds no results of this benchmark; move it away or pass another --out.")
        return data

    def check_processor(self) -> None:
        """Raises ValueError where results are there from another kind of machine."""
        others = {each["processor"] for each in self.data["sessions"].values()} - {processor()}
        if others:
            raise ValueError(
                f"{self.path} has results of another machine ({others.pop()}; this is {processor()}); "
                "pass another --out."
            )

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self.data = self._read()
            yield
            write_text(self.path, _dumped(self.data))
        finally:
            os.close(folder)

    def add(self, session: Row, *, cells: list[Row] | None = None, growth: list[Row] | None = None) -> None:
        """Put rows in, in place of those that are there of the same cells, under a session of their own."""
        with self._changing():
            name = str(1 + max((int(each) for each in self.data["sessions"]), default=0))
            self.data["sessions"][name] = session
            for kind, keys, rows in (("cells", _CELL_KEYS, cells or []), ("growth", _GROWTH_KEYS, growth or [])):
                merged = {_key(row, keys): row for row in self.data[kind]}
                merged |= {_key(row, keys): {**row, "session": name} for row in rows}
                self.data[kind] = list(merged.values())
            used = {row["session"] for kind in ("cells", "growth") for row in self.data[kind]}
            self.data["sessions"] = {key: each for key, each in self.data["sessions"].items() if key in used}

    def cell(self, cell: Cell) -> Row | None:
        """What is known of a cell."""
        key = _key(asdict(cell), _CELL_KEYS)
        return next((row for row in self.data["cells"] if _key(row, _CELL_KEYS) == key), None)

    def growth(self, **which: Any) -> list[Row]:
        """The rows of a growth like that."""
        return [row for row in self.data["growth"] if all(row[key] == value for key, value in which.items())]


def _key(row: Row, keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(row[key] for key in keys)


def _dumped(data: dict[str, Any]) -> str:
    """JSON with a line a row, so that a change of one is a change of one line."""
    one: Callable[[Any], str] = json.dumps
    sessions = ",\n".join(f"  {one(key)}: {one(each)}" for key, each in data["sessions"].items())
    kinds = [
        f' "{kind}": [\n' + ",\n".join(f"  {one(row)}" for row in data[kind]) + "\n ]" for kind in ("cells", "growth")
    ]
    return '{\n "sessions": {\n' + sessions + "\n },\n" + ",\n".join(kinds) + "\n}\n"
