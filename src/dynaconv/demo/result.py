"""Results of the demonstration: one row per network, and their comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynaconv.files import write_csv
from dynaconv.measure.latency import ModelLatency
from dynaconv.study.statistics import paired_shares

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("network", "params", "MAdds", "train s", "eager ms", "native ms", "accuracy")


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """One trained network.

    Attributes:
        title: Title in tables and figures.
        model: timm name.
        params: Number of parameters.
        macs: Multiply-adds for one picture, as executed.
        train_seconds: Wall-clock time of the training run.
        eager: Latency of one picture in eager PyTorch.
        native: Latency of one picture with the native kernels; None if they cannot be compiled.
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
        """Return the formatted table row."""
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
    """Both networks and the run folder.

    Attributes:
        folder: Run folder, with `table.csv`, `curves.png`, `coefficients.png`, `report.html` and a folder per network.
        static: The network with ordinary convolutions.
        dynamic: Its twin with DCD.
        movement: Relative standard deviation of each dynamic layer's kernel, see `dynaconv.explain.movement`.
    """

    folder: Path
    static: NetworkResult
    dynamic: NetworkResult
    movement: Mapping[str, float]

    @property
    def report(self) -> Path:
        """Path of the HTML report."""
        return self.folder / "report.html"

    @property
    def networks(self) -> tuple[NetworkResult, NetworkResult]:
        """Both networks, static first."""
        return self.static, self.dynamic

    def ratio_cells(self) -> list[str]:
        """Return the ratios of DCD to static, and the difference in accuracy in percentage points."""
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
        """Return the difference in accuracy with its confidence interval and its significance, as sentences."""
        static, dynamic = self.networks
        difference = paired_shares(static.correct, dynamic.correct)
        assert difference.half_width is not None
        low, high = (100 * (difference.mean + sign * difference.half_width) for sign in (-1, 1))
        scores = (
            f"On {len(static.correct):,} held-out pictures, {dynamic.title} is right on {dynamic.accuracy:.1%} and "
            f"{static.title} on {static.accuracy:.1%}: {100 * difference.mean:+.1f} points, 95 % "
            f"interval {low:+.1f} to {high:+.1f}. The interval is for these two trained networks and for pictures of "
            "the same kind."
        )
        if difference.sign == 0:
            return f"{scores} That is too little to say that one is better: another seed can reverse the order."
        better = dynamic.title if difference.sign > 0 else static.title
        return f"{scores} {better} is ahead by more than chance would give, for one seed."

    def movement_sentence(self) -> str:
        """Return a sentence about the variation of the kernels."""
        shares = self.movement.values()
        mean = sum(shares) / len(shares)
        return (
            f"The kernels of its {len(shares)} dynamic layers lie {mean:.1%} of their length away from their mean, "
            f"from {min(shares):.1%} to {max(shares):.1%}."
        )


def rich_table(result: DemoResult, *, caption: str) -> Table:
    """Return the result as a console table."""
    from rich.table import Table

    table = Table(title="Held-out letters", caption=caption, title_style="bold")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "network" else "right", no_wrap=True)
    for network in result.networks:
        table.add_row(*network.cells(), end_section=network is result.dynamic)
    table.add_row(*result.ratio_cells(), style="bold")
    return table


def write_table(networks: Sequence[NetworkResult], path: Path) -> None:
    """Write the result as CSV, with enough digits for calculations."""
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
