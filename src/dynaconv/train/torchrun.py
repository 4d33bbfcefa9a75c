"""Where torchrun put the processes of a run."""

import os
from typing import Any

from dynaconv.errors import RunError


def torchrun_sizes() -> tuple[int, int] | None:
    """How many processes torchrun started on each node, and how many nodes there are; ``None`` without torchrun."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return None
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ.get("WORLD_SIZE", local)) // local


def placed_by_torchrun(options: dict[str, Any]) -> dict[str, Any]:
    """Return the Trainer's options with torchrun's numbers, where torchrun started this process."""
    places = torchrun_sizes()
    return options if places is None else started_by_torchrun(options, *places)


def started_by_torchrun(options: dict[str, Any], devices: int, nodes: int) -> dict[str, Any]:
    """Take the numbers of devices and nodes from torchrun, and refuse others: each process would train for itself.

    Args:
        options: Of the Trainer.
        devices, nodes: As torchrun counts them.

    Raises:
        RunError: The options name other numbers.
    """
    options = dict(options)
    for key, count, flag in (("devices", devices, "--nproc-per-node"), ("num_nodes", nodes, "--nnodes")):
        given = options.get(key)
        if given in (None, "auto", -1, "-1") or (key == "num_nodes" and given == 1):
            options[key] = count
        elif _number(given) != count:
            raise RunError(f"trainer.{key} is {given}, and torchrun's {flag} is {count}; give both the same.")
    if devices * nodes > 1 and options.get("strategy") in (None, "auto"):
        options["strategy"] = "ddp"
    return options


def _number(devices: Any) -> int:
    """Count devices given as a number, a list, or a list in a text such as ``0,1``."""
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    return len(devices) if isinstance(devices, list) else int(devices)
