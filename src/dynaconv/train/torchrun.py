"""Takes the numbers of devices and nodes of a run from torchrun."""

import os
from typing import Any

from dynaconv.errors import RunError


def torchrun_sizes() -> tuple[int, int] | None:
    """Return the numbers of processes per node and of nodes that torchrun started, or ``None`` without torchrun."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return None
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ.get("WORLD_SIZE", local)) // local


def placed_by_torchrun(options: dict[str, Any]) -> dict[str, Any]:
    """Return the Trainer's options with torchrun's numbers, if torchrun started this process."""
    sizes = torchrun_sizes()
    return options if sizes is None else started_by_torchrun(options, *sizes)


def started_by_torchrun(options: dict[str, Any], devices: int, nodes: int) -> dict[str, Any]:
    """Return the Trainer's options with torchrun's numbers of devices and nodes.

    With other numbers each process would train on its own.

    Args:
        options: Options of the Trainer.
        devices, nodes: Numbers of torchrun.

    Raises:
        RunError: The options have other numbers.
    """
    options = dict(options)
    for key, count, flag in (("devices", devices, "--nproc-per-node"), ("num_nodes", nodes, "--nnodes")):
        given = options.get(key)
        if given in (None, "auto", -1, "-1") or (key == "num_nodes" and given == 1):
            options[key] = count
        elif _count_devices(given) != count:
            raise RunError(f"trainer.{key} is {given}, but torchrun's {flag} is {count}; set both to the same.")
    if devices * nodes > 1 and options.get("strategy") in (None, "auto"):
        options["strategy"] = "ddp"
    return options


def _count_devices(devices: Any) -> int:
    """Return the number of devices, which are given as a number, a list, or a string such as ``0,1``."""
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    return len(devices) if isinstance(devices, list) else int(devices)
