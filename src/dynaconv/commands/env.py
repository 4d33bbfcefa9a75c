"""``dynaconv env``: the versions and the machine that a report of a fault needs."""

import argparse
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from dynaconv._version import __version__
from dynaconv.commands import _arguments as shared
from dynaconv.commands._shared import add_command
from dynaconv.files import write_json

_EXTRAS = ("models", "train", "shards", "hub", "export", "int8")
"""Extras that are looked for; the others have environments of their own."""


def add(commands: Any) -> None:
    """Add ``dynaconv env``."""
    command = add_command(commands, "env", "show versions, threads, compiler and installed extras", run)
    shared.add_json(command, "the same")


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Print one line for each fact."""
    facts = {**_machine(), **_torch(), "native kernels": _native(), **_extras()}
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name:<{width}}  {fact}")
    if arguments.json is not None:
        write_json(arguments.json, facts)


def _machine() -> dict[str, str]:
    from dynaconv.measure.machine import processor_model

    return {
        "dynaconv": f"{__version__} in {Path(__file__).parents[1]}",
        "python": f"{platform.python_version()} in {sys.prefix}",
        "system": platform.platform(),
        "processor": f"{processor_model()}, {os.cpu_count()} cores",
    }


def _torch() -> dict[str, str]:
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    threads = torch.get_num_threads()
    variable = os.environ.get("OMP_NUM_THREADS")
    return {
        "torch": torch.__version__,
        "gpu": f"{', '.join(devices)}, CUDA {torch.version.cuda}" if devices else "none that torch can use",
        "threads": f"{threads}, OMP_NUM_THREADS is {variable or 'not set'}",
    }


def _native() -> str:
    """Return the instruction set of the native kernels and where they come from, or why they cannot run."""
    from dynaconv.errors import DynaconvError
    from dynaconv.native.library import instruction_set
    from dynaconv.native.toolchain import compiler, prebuilt_library

    try:
        found = instruction_set()
    except (DynaconvError, OSError) as error:
        return " ".join(str(error).split())
    if prebuilt_library("torch") is not None:
        return f"{found}, of the installed package"
    return f"{found}, compiled here by {' '.join(compiler())}"


def _extras() -> dict[str, str]:
    """Return which extras are complete, what the others lack, and the versions of all their packages."""
    try:
        lines = requires("dynaconv") or []
    except PackageNotFoundError:
        return {"extras": "unknown, because the package is not installed"}
    states, versions = [], {}
    for extra in _EXTRAS:
        named = [re.match(r"[\w.-]+", line) for line in lines if re.search(rf"extra == ['\"]{extra}['\"]", line)]
        found = {match[0]: _version(match[0]) for match in named if match}
        missing = [package for package, number in found.items() if number is None]
        states.append(f"{extra} lacks {' and '.join(missing)}" if missing else f"{extra} complete")
        versions.update({package: number for package, number in found.items() if number is not None})
    listed = ", ".join(f"{package} {number}" for package, number in sorted(versions.items()))
    return {"extras": "; ".join(states), "packages": listed}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
