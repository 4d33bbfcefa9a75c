"""What the demonstration finds: one row a network, and how they compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynaconv.files import write_csv

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("network", "parameters", "MAdds", "train s", "latency ms", "accuracy")


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """One trained network.

    Attributes:
        title: As tables and figures call it.
        model: timm name.
        params: Number of parameters.
        macs: Multiply-adds of one picture, as executed.
        train_seconds: Wall clock of the training run.
        latency_ms: Median time of one picture.
        latency_ratio: That time over the first network's, taken in turns.
        correct: For each held-out picture, in order, whether the prediction is right.
    """

    title: str
    model: str
    params: int
    macs: int
    train_seconds: float
    latency_ms: float
    latency_ratio: float
    correct: tuple[bool, ...]

    @property
    def accuracy(self) -> float:
        """Share of right predictions on the held-out pictures."""
        return sum(self.correct) / len(self.correct)

    def cells(self) -> list[str]:
        """The row of a table for people."""
        return [
            self.title,
            f"{self.params:,}",
            f"{self.macs / 1e6:.2f} M",
            f"{self.train_seconds:.1f}",
            f"{self.latency_ms:.2f}",
            f"{self.accuracy:.2%}",
        ]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Both networks and where the run lies.

    Attributes:
        folder: Run folder, with `table.csv`, `curves.png`, `coefficients.png`, `report.html` and a folder a network.
        static: The network with ordinary convolutions.
        dynamic: Its twin with DCD.
    """

    folder: Path
    static: NetworkResult
    dynamic: NetworkResult

    @property
    def report(self) -> Path:
        """The report to open in a browser."""
        return self.folder / "report.html"

    @property
    def networks(self) -> tuple[NetworkResult, NetworkResult]:
        """Static first."""
        return self.static, self.dynamic

    def ratio_cells(self) -> list[str]:
        """DCD against static: ratios, and the difference of accuracy in points."""
        static, dynamic = self.networks
        points = 100 * (dynamic.accuracy - static.accuracy)
        return [
            f"{dynamic.title} / {static.title}",
            f"x {dynamic.params / static.params:.2f}",
            f"x {dynamic.macs / static.macs:.2f}",
            f"x {dynamic.train_seconds / static.train_seconds:.2f}",
            f"x {dynamic.latency_ratio:.2f}",
            f"{points:+.2f} pts",
        ]

    def verdict(self) -> str:
        """Which network is ahead on the held-out pictures, and whether so few pictures can tell; plain sentences."""
        static, dynamic = self.networks
        total = len(static.correct)
        only_static, only_dynamic = _disagreements(static.correct, dynamic.correct)
        scores = (
            f"On {total} held-out pictures {dynamic.title} is right on {dynamic.accuracy:.1%} "
            f"and {static.title} on {static.accuracy:.1%}."
        )
        if only_static == only_dynamic:
            return f"{scores} They are level."
        ahead = dynamic.title if only_dynamic > only_static else static.title
        difference = abs(only_dynamic - only_static)
        lead = f"{ahead} is ahead by {_pictures(difference)}"
        # Twice the spread of the difference when each picture that tells the two apart is a toss of a coin.
        if difference < 2 * math.sqrt(only_static + only_dynamic):
            return f"{scores} {lead}, which is too few to say that it is better: another seed can turn it round."
        return f"{scores} {lead}, more than chance would give with these pictures; one seed was run."


def rich_table(result: DemoResult, *, caption: str) -> Table:
    """The result for the console."""
    from rich.table import Table

    table = Table(title="Held-out digits", caption=caption, title_style="bold")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "network" else "right", no_wrap=True)
    for network in result.networks:
        table.add_row(*network.cells(), end_section=network is result.dynamic)
    table.add_row(*result.ratio_cells(), style="bold")
    return table


def write_table(networks: Sequence[NetworkResult], path: Path) -> None:
    """The result as CSV, numbers unrounded enough to compute with."""
    rows = [
        {
            "network": network.title,
            "model": network.model,
            "params": network.params,
            "macs": network.macs,
            "train_seconds": f"{network.train_seconds:.3f}",
            "latency_ms": f"{network.latency_ms:.4f}",
            "accuracy": f"{network.accuracy:.6f}",
            "test_images": len(network.correct),
        }
        for network in networks
    ]
    write_csv(path, list(rows[0]), rows)


def _disagreements(static: Sequence[bool], dynamic: Sequence[bool]) -> tuple[int, int]:
    """Pictures that only the static, and that only the dynamic network gets right."""
    pairs = list(zip(static, dynamic, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
