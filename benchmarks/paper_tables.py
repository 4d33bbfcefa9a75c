"""Parameters and multiply-adds of every network and family beside the figures that papers print.

    python benchmarks/paper_tables.py docs/paper-tables.md  # about two minutes on one core, little memory

Our numbers are computed here, at 3 x 224 x 224, one image, without weights in memory. The published figures stand in
docs/data/published-figures.csv.
"""

import argparse
import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import nn

import dynaconv
import dynaconv.models  # registers the networks with timm
from dynaconv.errors import listed
from dynaconv.families import CondConv2d, DynamicConv
from dynaconv.files import write_text
from dynaconv.markdown import markdown_table, replace_between
from dynaconv.measure.multiply_adds import WorkRecorder

FIGURES = Path(__file__).parents[1] / "docs" / "data" / "published-figures.csv"
NETWORKS = {
    **{f"mobilenetv2_{size}": f"MobileNetV2 x{int(size) / 100:g}" for size in ("035", "050", "075", "100", "140")},
    **{f"resnet{depth}": f"ResNet-{depth}" for depth in (10, 18, 34, 50, 101)},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("static_{}", {}),
    "dcd": ("dcd_{}", {}),
    "dcd published": ("dcd_{}_published", {}),
    "condconv": ("condconv_{}", {}),
    "condconv classifier": ("condconv_{}", {}),
    "dyconv": ("dyconv_{}", {}),
    "odconv 1x": ("odconv_{}", {"num_kernels": 1}),
    "odconv 2x": ("odconv_{}", {"num_kernels": 2}),
    "odconv 4x": ("odconv_{}", {}),
    "se": ("se_{}", {}),
    **{f"kernel_warehouse {budget}": ("kernel_warehouse_{}", {"budget": budget}) for budget in (0.25, 0.5, 1, 2, 4)},
}
"""Model name and `family_options`."""
ONLY_WHERE_PUBLISHED = (
    "condconv classifier",
    "odconv 2x",
    *(variant for variant in VARIANTS if variant.startswith("kernel_warehouse")),
)
UNITS = {"": 1e6, "1e6": 1e6, "2^20": 2.0**20}
MARKS = ("<!-- tables: python benchmarks/paper_tables.py docs/paper-tables.md -->", "<!-- end of tables -->")
CLEAR = 0.03
"""A difference beyond this needs a note."""


class Work(NamedTuple):
    """Multiply-adds of one pass: by the papers' convention, as executed, and with the cheaper way in each layer."""

    convention: float
    executed: float
    least: float


@dataclass(frozen=True)
class Case:
    """A row: one network in one variant, and one published figure for it where there is one."""

    network: str
    variant: str
    figure: Mapping[str, str]

    @property
    def with_classifier(self) -> bool:
        """Whether the classifier of eight experts is added to the count."""
        return self.variant == "condconv classifier"

    def build(self) -> nn.Module:
        """The network, without memory."""
        name, options = VARIANTS[self.variant]
        return timm.create_model(name.format(self.network), device="meta", family_options=options).eval()

    @property
    def label(self) -> str:
        """What to build, as the page says it."""
        name, options = VARIANTS[self.variant]
        extra = "".join(f", `{key}={value}`" for key, value in options.items())
        return f"`{name.format(self.network)}`{extra}" + (" + classifier" if self.with_classifier else "")


def cases() -> list[Case]:
    """Every row of the page, in its order."""
    with FIGURES.open(newline="") as file:
        figures = list(csv.DictReader(file))
    unknown = [row for row in figures if row["network"] not in NETWORKS or row["variant"] not in VARIANTS]
    if unknown:
        raise ValueError(f"{FIGURES.name} has rows for no network or variant of ours: {unknown}.")
    found = []
    for network in NETWORKS:
        for variant in VARIANTS:
            rows = [row for row in figures if (row["network"], row["variant"]) == (network, variant)]
            if not rows and variant not in ONLY_WHERE_PUBLISHED:
                rows = [dict.fromkeys(figures[0], "")]
            found += [Case(network, variant, row) for row in rows]
    return found


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def classifier_of_experts() -> tuple[nn.Module, nn.Module]:
    """MobileNetV2's classifier as a 1x1 convolution of eight experts, and as it is."""
    return CondConv2d(1280, 1000, 1, device="meta").eval(), nn.Conv2d(1280, 1000, 1, device="meta").eval()


def parameters(case: Case) -> int:
    """Parameters of a row's network."""
    own = count(case.build())
    if case.with_classifier:
        dynamic, static = classifier_of_experts()
        own += count(dynamic) - count(static)
    return own


def work(case: Case) -> Work:
    """Multiply-adds of a row's network on one image."""
    own = _work(case.build(), (1, 3, 224, 224))
    if case.with_classifier:
        dynamic, static = (_work(module, (1, 1280, 1, 1)) for module in classifier_of_experts())
        own = Work(*(a + b - c for a, b, c in zip(own, dynamic, static, strict=True)))
    return own


def _work(model: nn.Module, size: tuple[int, int, int, int]) -> Work:
    profile = dynaconv.profile(model, size)
    least = float(profile.macs)
    rows = {row.name: row for row in profile.layers}
    dynamic: dict[nn.Module, str] = {
        layer: name for name, layer in model.named_modules() if isinstance(layer, DynamicConv)
    }
    with torch.no_grad(), WorkRecorder(dynamic) as recorder:
        model(torch.empty(size, device="meta"))
    for layer, name in dynamic.items():
        assert isinstance(layer, DynamicConv)
        (shape,) = recorder.work[name].input_shapes
        assert shape is not None
        assert len(shape) == 4
        costs = {key: cost.multiply_adds for key, cost in layer.algorithm_costs(shape).items()}
        executed = rows[name].algorithm
        assert executed is not None
        least += min(costs.values()) - costs[executed]
    return Work(profile.published_macs, profile.macs, least)


def difference(ours: float, figure: str) -> float | None:
    """Relative difference to a published figure in the same unit, None without one."""
    return ours / float(figure) - 1 if figure else None


def table(results: Iterable[tuple[Case, int, Work]]) -> str:
    """A Markdown table.

    Raises:
        ValueError: a difference is beyond `CLEAR` and the row has no note.
    """
    rows = []
    for case, own, done in results:
        figure, unit = case.figure, UNITS[case.figure["unit"]]
        gaps = (difference(own / unit, figure["params"]), difference(done.convention / 1e6, figure["madds"]))
        notes = figure["notes"].split()
        far = listed((f"{gap:+.1%}" for gap in gaps if gap is not None and abs(gap) > CLEAR), quote=False)
        if far and not notes:
            raise ValueError(f"{case.label} is {far} away from its published figures; its row needs a note.")
        printed = f"{figure['params']}M" + (" (2^20)" if figure["unit"] == "2^20" else "")
        cells = [
            case.label,
            f"{own:,}",
            printed if figure["params"] else "",
            _percent(gaps[0]),
            *(f"{value / 1e6:,.1f}M" for value in done),
            f"{float(figure['madds']):,g}M" if figure["madds"] else "",
            _percent(gaps[1]),
            f"{figure['top1']} [{figure['source']}]" if figure["top1"] else "",
            ", ".join(f"[{note}](#{note})" for note in notes),
        ]
        rows.append(cells)
    columns = ("network", "parameters", "published", "", "MAdds", "executed", "fewest", "published", "")
    return "\n".join(markdown_table((*columns, "top-1, published", "notes"), rows, "lrrrrrrrrrl"))


def _percent(gap: float | None) -> str:
    return "" if gap is None else f"{round(100 * gap, 1) + 0.0:+.1f} %"  # + 0.0 makes -0.0 positive


def with_tables(text: str, results: Iterable[tuple[Case, int, Work]]) -> str:
    """A page with everything between its two `MARKS` made anew.

    Raises:
        ValueError: the page does not have each mark once.
    """
    rows, blocks = list(results), []
    for network, title in NETWORKS.items():
        blocks += [f"### {title}", table(row for row in rows if row[0].network == network)]
    return replace_between(text, MARKS, "\n\n".join(blocks))


def main() -> None:
    """Compute every row and write the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="Markdown file whose tables are made anew")
    args = parser.parse_args()
    known: dict[tuple[str, str], tuple[int, Work]] = {}
    results = []
    for case in cases():
        key = case.network, case.variant
        if key not in known:
            known[key] = parameters(case), work(case)
            print(case.label, flush=True)
        results.append((case, *known[key]))
    write_text(args.page, with_tables(args.page.read_text(), results))


if __name__ == "__main__":
    main()
