"""How the time of a network grows with one quantity: what is measured, and how each candidate is loaded."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _families import labels, networks, number_option
from _latency_cells import ARCHITECTURES, RUNTIMES, Loaded, inference
from _runtimes import SUFFIXES, built, exported, exported_path, no_fallback, session, timm_name

AXES = {
    "batch": "the batch",
    "side": "the resolution",
    "latent": "the latent size L",
    "kernels": "the number of kernels",
}
AXIS_LABELS = {
    "batch": "batch",
    "side": "pixels a side",
    "latent": "L relative to its default",
    "kernels": "number of kernels, or budget",
}
VALUES: dict[str, tuple[float, ...]] = {
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "side": (96, 128, 160, 224, 320, 448),
    "latent": (0.25, 0.5, 1, 2, 4),
    "kernels": (1, 2, 4, 8, 16),
}
QUICK_VALUES: dict[str, tuple[float, ...]] = {
    "batch": (1, 4, 16),
    "side": (96, 224),
    "latent": (0.5, 2),
    "kernels": (1, 4),
}
_RANKS = {"batch": 2.5, "side": 2.6, "kernels": 3.5, "latent": 3.6}
"""Places among the groups of the latency benchmark."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The sizes of all networks in one runtime, which take turns."""

    axis: str
    architecture: str
    side: int
    values: Mapping[str, tuple[float, ...]]
    runtime: str = "eager"
    batch: int = 1
    threads: int = 1

    @property
    def rank(self) -> float:
        return _RANKS[self.axis]

    @property
    def title(self) -> str:
        return (
            f"{ARCHITECTURES[self.architecture]}, {RUNTIMES[self.runtime]}, {self.threads} thread(s), growth with "
            f"{AXES[self.axis]}"
        )

    @property
    def which(self) -> dict[str, Any]:
        """What all rows of it have in common."""
        keys = ("axis", "architecture", "side", "runtime", "batch", "threads")
        return {key: getattr(self, key) for key in keys}

    def twin(self, value: float) -> tuple[str, str]:
        """The static network of the same input, which may have no such quantity."""
        values = self.values["static"]
        return "static", str(value if value in values else values[0])


def growth_values(axis: str, names: Iterable[str], *, quick: bool = False) -> dict[str, tuple[float, ...]]:
    """The values of an axis for each of these networks that has the quantity; the static one has one at least."""
    values = (QUICK_VALUES if quick else VALUES)[axis]
    found: dict[str, tuple[float, ...]] = {}
    for name in names:
        if axis in ("batch", "side"):
            found[name] = values
        elif name == "static":
            found[name] = (1,)
        elif axis == "latent":
            found |= {name: values} if _has_latent(name) else {}
        elif (option := number_option(name)) is not None:
            found[name] = tuple(value for value in values if _is_allowed(name, option[0], value))
    return found if found.keys() - {"static"} else {}


def growing_networks(names: Iterable[str] = ()) -> list[str]:
    """The static network, and the families among these, or all of them."""
    wanted = set(names) or {*labels()}
    return ["static", *(name for name in networks() if name in wanted and name in labels())]


def _has_latent(name: str) -> bool:
    from dynaconv.families import get_family

    return hasattr(get_family(name).layer.config_class, "latent_dim")


def _is_allowed(name: str, option: str, value: float) -> bool:
    from dynaconv.families import get_family

    given: dict[str, Any] = {option: int(value)}
    try:
        get_family(name).layer.config_class(**given)
    except ValueError:
        return False
    return True


def growth_case(growth: Growth, network: str, value: float) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Input size, and arguments of the network, at one value of the axis."""
    batch = int(value) if growth.axis == "batch" else growth.batch
    side = int(value) if growth.axis == "side" else growth.side
    options: dict[str, Any] = {}
    if network != "static" and growth.axis == "latent":
        options["latent_ratio"] = value
    if network != "static" and growth.axis == "kernels":
        option = number_option(network)
        assert option is not None
        if value != option[1]:
            options["family_options"] = {option[0]: int(value)}
    return (batch, 3, side, side), options


@dataclass(frozen=True, kw_only=True)
class Point:
    """A network at one value of the axis.

    Attributes:
        name, options: Its name with timm, and arguments.
        size: Of the input.
        path: The file that the runtime opens; None for runtimes of torch.
    """

    name: str
    options: Mapping[str, Any]
    size: tuple[int, ...]
    path: Path | None

    def write(self, folder: Path, runtime: str) -> None:
        """Export the network."""
        exported(folder, runtime, self.name, self.size[-1], options=self.options)


def points(growth: Growth, network: str, folder: Path) -> dict[str, Point]:
    """The points of a network, by the text of the value."""
    found = {}
    for value in growth.values[network]:
        size, options = growth_case(growth, network, value)
        name = timm_name(network, growth.architecture)
        exports = growth.runtime in SUFFIXES
        path = exported_path(folder, growth.runtime, name, size[-1], options=options) if exports else None
        found[str(value)] = Point(name=name, options=options, size=size, path=path)
    return found


def macs(point: Point) -> int:
    """Multiply-adds of the deployed network, as executed."""
    from dynaconv import deploy, profile

    return int(profile(deploy(built(point.name, **point.options), point.size, inplace=True), point.size).macs)


def load_growth(found: Mapping[str, Point], runtime: str, threads: int) -> Loaded:
    """The network ready to run at each of the points."""
    if runtime in SUFFIXES:
        runs = {key: session(_path(point), runtime, point.size, threads)[1] for key, point in found.items()}
        return Loaded(runs=runs)
    import torch

    from dynaconv import deploy

    torch.set_num_threads(threads)
    loaded = Loaded(runs={})
    for key, point in found.items():
        x = torch.randn(point.size)
        if runtime == "native":
            x = x.contiguous(memory_format=torch.channels_last)
        with no_fallback():
            backend = "native" if runtime == "native" else "torch"
            network = deploy(built(point.name, **point.options), point.size, inplace=True, backend=backend)
        loaded.runs[key] = partial(inference, network, x)
    return loaded


def _path(point: Point) -> Path:
    assert point.path is not None
    return point.path


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of log y against log x, by least squares."""
    logs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True)]
    return statistics.linear_regression([a for a, _ in logs], [b for _, b in logs]).slope


def slopes(curve: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The measured slope of a network's rows, and that of its multiply-adds."""
    values = [row["value"] for row in curve]
    return slope(values, [row["ms"] for row in curve]), slope(values, [row["macs"] for row in curve])
