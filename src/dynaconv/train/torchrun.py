"""Takes the numbers of devices and nodes of a run from torchrun."""

import os
from typing import Any

from dynaconv.errors import RunError


def placed_by_torchrun(options: dict[str, Any]) -> dict[str, Any]:
    """Return the Trainer's options with torchrun's numbers of devices and nodes, if torchrun started this process.

    With other numbers each process would train on its own: Lightning checks them only for more than one device.

    Raises:
        RunError: The options have other numbers.
    """
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return options
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ.get("WORLD_SIZE", devices)) // devices
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
