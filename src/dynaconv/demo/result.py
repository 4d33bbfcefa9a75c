"""What the demonstration finds: one row a network, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynaconv.analysis.latency import ModelLatency
from dynaconv.files import write_csv
from dynaconv.study.statistics import paired_shares

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("network", "params", "MAdds", "train s", "eager ms", "native ms", "accuracy")


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """One trained network.

    Attributes:
        title: As tables and figures call it.
        model: timm name.
        params: Number of parameters.
        macs: Multiply-adds of one picture, as executed.
        train_seconds: Wall clock of the training run.
        eager: Time of one picture in eager PyTorch.
        native: The same, deployed on the native kernels; None where they cannot be compiled.
        correct: For each held-out picture, in order, whether the prediction is right.
    """

    title: str
    model: str
    params: int
    macs: int
    train_seconds: float
    eager: ModelLatency
    native: ModelLatency | None
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
            f"{self.eager.median_ms:.2f}",
            f"{self.native.median_ms:.3f}" if self.native is not None else "",
            f"{self.accuracy:.2%}",
        ]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Both networks and where the run lies.

    Attributes:
        folder: Run folder, with `table.csv`, `curves.png`, `coefficients.png`, `report.html` and a folder a network.
        static: The network with ordinary convolutions.
        dynamic: Its twin with DCD.
        movement: How far the kernels of each dynamic layer lie from their mean, as a share of its length.
    """

    folder: Path
    static: NetworkResult
    dynamic: NetworkResult
    movement: Mapping[str, float]

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
            "ratio",
            f"x {dynamic.params / static.params:.2f}",
            f"x {dynamic.macs / static.macs:.2f}",
            f"x {dynamic.train_seconds / static.train_seconds:.2f}",
            f"x {dynamic.eager.ratio:.2f}",
            f"x {dynamic.native.ratio:.2f}" if dynamic.native is not None else "",
            f"{points:+.2f} pts",
        ]

    def verdict(self) -> str:
        """The difference of accuracy with its interval, and whether it is one; plain sentences."""
        static, dynamic = self.networks
        found = paired_shares(static.correct, dynamic.correct)
        assert found.half_width is not None
        low, high = (100 * (found.mean + sign * found.half_width) for sign in (-1, 1))
        scores = (
            f"On {len(static.correct):,} held-out pictures {dynamic.title} is right on {dynamic.accuracy:.1%} and "
            f"{static.title} on {static.accuracy:.1%}: {100 * found.mean:+.1f} points, 95 % interval {low:+.1f} to "
            f"{high:+.1f}, for pictures like these and these two trained networks."
        )
        if found.sign == 0:
            return f"{scores} That is too little to say that one is better: another seed can turn it round."
        better = dynamic.title if found.sign > 0 else static.title
        return f"{scores} {better} is ahead by more than chance would give; one seed was run."

    def movement_sentence(self) -> str:
        """How far the kernels move."""
        shares = self.movement.values()
        mean = sum(shares) / len(shares)
        return (
            f"The kernels of its {len(shares)} dynamic layers lie {mean:.1%} of their length away from their mean, "
            f"from {min(shares):.1%} to {max(shares):.1%}."
        )


def rich_table(result: DemoResult, *, caption: str) -> Table:
    """The result for the console."""
    from rich.table import Table

    table = Table(title="Held-out letters", caption=caption, title_style="bold")
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
            "eager_ms": f"{network.eager.median_ms:.4f}",
            "native_ms": f"{network.native.median_ms:.4f}" if network.native is not None else "",
            "accuracy": f"{network.accuracy:.6f}",
            "test_images": len(network.correct),
        }
        for network in networks
    ]
    write_csv(path, list(rows[0]), rows)
