"""The statistics of a network as a console table, as CSV rows, and as plain values for JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from dynaconv.explain.coefficients import PartStatistics, symbol
from dynaconv.explain.statistics import QUANTILE_LEVELS, KernelUse, LayerStatistics, NetworkStatistics, PartReport

if TYPE_CHECKING:
    from rich.table import Table

MEASURES = ("entropy", "binary_entropy", "total", "near_zero", "saturated", "norm")
"""Measures that are one number per sample."""
COLUMNS = ("layer", "kind", "part", "class", "images", "mean", "deviation", "minimum", "maximum", *MEASURES)
ALL_CLASSES = "(all)"


def cells(layer: LayerStatistics, name: str) -> list[str]:
    """Return a formatted row: part, size, mean, deviation, range, share between classes, and a remark."""
    part = layer.parts[name]
    shape = "x".join(str(n) for n in part.values.mean.shape)
    return [
        symbol(name, layer.kind),
        shape,
        f"{part.mean:.3f}",
        f"{part.deviation:.3f}",
        f"{part.minimum:.3f} to {part.maximum:.3f}",
        f"{part.values.share_between:.0%}",
        remark(layer, part),
    ]


HEADER = ("layer", "part", "size", "mean", "sd", "range", "class", "remark")


def remark(layer: LayerStatistics, part: PartReport) -> str:
    """Return a short summary of the measures."""
    if part.still:
        return "the same for every input"
    use = layer.kernels
    if part.role == "mixing" and use is not None:
        return kernel_remark(use)
    if part.role == "matrix":
        return f"norm {part.average('norm'):.3f}"
    words = [f"{part.average('near_zero'):.1%} near 0"]
    if "saturated" in part.measures:
        words.append(f"{part.average('saturated'):.1%} near {part.limit:g}")
    return ", ".join(words)


def kernel_remark(use: KernelUse) -> str:
    """Return a short summary of the use of the kernels and its dependence on the input."""
    words = [f"uses {use.effective_kernels:.1f} of {len(use.usage)}", f"input decides {use.dependence:.2g}"]
    if use.unused:
        words.append(f"unused: {', '.join(str(k + 1) for k in use.unused)}")
    return ", ".join(words)


def rich_table(statistics: NetworkStatistics) -> Table:
    """Return `NetworkStatistics.table`."""
    from rich import box
    from rich.table import Table

    table = Table(
        *HEADER,
        title=f"Coefficients over {statistics.images:,} images",
        caption="sd: over the images, per element; class: share of the variance between classes.",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in table.columns[3:7]:
        column.justify = "right"
    for layer in statistics.layers:
        for index, name in enumerate(layer.parts):
            table.add_row(layer.name or layer.kind if index == 0 else "", *cells(layer, name))
    return table


def class_rows(statistics: NetworkStatistics) -> list[dict[str, Any]]:
    """Return `NetworkStatistics.rows`. A value is None if the class has no image or the part no such measure."""
    rows: list[dict[str, Any]] = []
    for layer in statistics.layers:
        for name, part in layer.parts.items():
            labels = {"layer": layer.name, "kind": layer.kind, "part": name}
            row = {"mean": part.mean, "deviation": part.deviation, "minimum": part.minimum, "maximum": part.maximum}
            extra = {key: part.average(key) if key in part.measures else None for key in MEASURES}
            rows.append({**labels, "class": ALL_CLASSES, "images": statistics.images, **row, **extra})
            for index, label in enumerate(statistics.class_names):
                rows.append({**labels, "class": label, **_class_row(part, index)})
    return rows


def _class_row(part: PartReport, index: int) -> dict[str, Any]:
    values: PartStatistics = part.values
    images = int(values.counts[index])
    if images == 0:
        return {"images": 0} | dict.fromkeys(COLUMNS[5:])
    row: dict[str, Any] = {
        "images": images,
        "mean": float(values.class_means[index].mean()),
        "deviation": float(values.class_variances[index].mean().sqrt()),
        "minimum": float(values.class_minima[index].min()),
        "maximum": float(values.class_maxima[index].max()),
    }
    for key in MEASURES:
        row[key] = float(part.measures[key].class_means[index].mean()) if key in part.measures else None
    return row


def plain(statistics: NetworkStatistics) -> dict[str, Any]:
    """Return `NetworkStatistics.to_dict`."""
    return {
        "images": statistics.images,
        "class_names": list(statistics.class_names),
        "layers": [_plain_layer(layer, statistics.class_names) for layer in statistics.layers],
    }


def _plain_layer(layer: LayerStatistics, class_names: tuple[str, ...]) -> dict[str, Any]:
    use = layer.kernels
    return {
        "name": layer.name,
        "kind": layer.kind,
        "kernels": None if use is None else _plain_use(use),
        "parts": {name: _plain_part(part, class_names) for name, part in layer.parts.items()},
    }


def _plain_use(use: KernelUse) -> dict[str, Any]:
    return {
        "usage": use.usage.tolist(),
        "largest": use.largest.tolist(),
        "entropy": use.entropy,
        "usage_entropy": use.usage_entropy,
        "binary_entropy": use.binary_entropy,
        "dependence": use.dependence,
        "effective_kernels": use.effective_kernels,
        "unused": list(use.unused),
    }


def _plain_part(part: PartReport, class_names: tuple[str, ...]) -> dict[str, Any]:
    ratio = part.values.variance_ratio
    return {
        "shape": list(part.values.mean.shape),
        "role": part.role,
        "mean": part.mean,
        "deviation": part.deviation,
        "minimum": part.minimum,
        "maximum": part.maximum,
        "quantiles": dict(zip(map(str, QUANTILE_LEVELS), part.quantiles.tolist(), strict=True)),
        "share_between_classes": part.values.share_between,
        "share_by_chance": part.values.share_by_chance,
        "variance_ratio": ratio if math.isfinite(ratio) else None,
        "still": part.still,
        "measures": {name: _numbers(measure.mean) for name, measure in part.measures.items()},
        "classes": {label: _class_row(part, index) for index, label in enumerate(class_names)},
    }


def _numbers(values: torch.Tensor) -> Any:
    return values.tolist() if values.dim() else float(values)
