"""Console tables of profiles: the layers with totals, and the totals of several networks side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from dynaconv.errors import counted, listed
from dynaconv.measure.profile_export import dimensions, outside_row, total_row

if TYPE_CHECKING:
    from dynaconv.measure.profile import LayerProfile, Profile

_UNITS = ("", "k", "M", "G", "T", "P")
# Width of the blanks around a column and of a possible line between two columns.
_GAP = 3


@dataclass(frozen=True)
class _Column:
    """A column: its key in a row, its header, its cell format, and its priority if there is no room for all columns."""

    key: str
    header: str
    formatter: Callable[[Any], str]
    priority: int
    right: bool = True


def format_number(number: float, unit: str = "") -> str:
    """Format a number with four digits and a decimal prefix, ``300.8M``, followed by the unit, ``1.606MB``."""
    power = 0
    while abs(number) >= 999.95 and power < len(_UNITS) - 1:
        number /= 1000
        power += 1
    digits = 0 if power == 0 else 3 - len(str(int(abs(number))).lstrip("-")) + 1
    return f"{number:.{max(digits, 0)}f}{_UNITS[power]}{unit}"


def _bytes(number: float) -> str:
    return format_number(number, "B")


def _milliseconds(number: float) -> str:
    return f"{number:.2f}"


_COLUMNS = (
    _Column("name", "layer", lambda name: name or "(model)", 9, right=False),
    _Column("kind", "kind", str, 3, right=False),
    _Column("algorithm", "algorithm", str, 5, right=False),
    _Column("output_shape", "output", lambda shape: dimensions(shape[1:]), 2),
    _Column("params", "params", format_number, 7),
    _Column("macs", "MAdds run", format_number, 8),
    _Column("published_macs", "published", format_number, 6),
    _Column("output_bytes", "bytes", _bytes, 1),
    _Column("peak_bytes", "peak bytes", _bytes, 4),
    _Column("latency_ms", "ms", _milliseconds, 6),
)


def layer_table(profile: Profile, width: int | None) -> Table:
    """Return a table of the layers with the totals in its footer; see `Profile.table`."""
    rows = [vars(layer) for layer in profile.layers if not _is_idle(layer)]
    idle = len(profile.layers) - len(rows)
    outside, total = outside_row(profile), total_row(profile)
    rows += [outside] if outside else []
    columns = [column for column in _COLUMNS if any(row.get(column.key) is not None for row in rows)]
    cells = {column: [_cell(column, row) for row in (*rows, total)] for column in columns}
    shown = _columns_that_fit(cells, width)
    batch, *size = profile.input_size
    caption = [
        "MAdds run: by the executed algorithm; published: static convolution + branch + assembly of the kernel. "
        "Element-wise work is not counted. Output without the batch."
    ]
    if profile.conditions:
        caption.append(f"ms: {profile.conditions}.")
    if idle:
        caption.append(f"{counted(idle, 'layer')} without work or parameters left out.")
    if dropped := [column.header for column in columns if column not in shown]:
        caption.append(f"No room for {listed(dropped, quote=False)}.")
    table = Table(
        title=f"Input {dimensions(tuple(size))}, batch {batch}",
        caption=" ".join(caption),
        caption_justify="left",
        show_footer=True,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in shown:
        justify: Any = "right" if column.right else "left"
        overflow: Any = "fold" if column.key == "name" else "ellipsis"
        table.add_column(column.header, cells[column][-1], justify=justify, overflow=overflow, no_wrap=column.right)
    for index in range(len(rows)):
        table.add_row(*(cells[column][index] for column in shown))
    return table


def _is_idle(layer: LayerProfile) -> bool:
    """Return whether a layer has no parameters and is an identity or is not called."""
    return not layer.params and (layer.kind == "Identity" or not layer.calls)


def _cell(column: _Column, row: Mapping[str, Any]) -> str:
    value = row.get(column.key)
    return "" if value is None else column.formatter(value)


def _columns_that_fit(cells: Mapping[_Column, list[str]], width: int | None) -> list[_Column]:
    """Return the columns that fit into `width`; the columns with the lowest priority are left out first."""
    widths = {column: max(len(text) for text in (column.header, *texts)) + _GAP for column, texts in cells.items()}
    shown = list(cells)
    # The outermost columns have no gap towards the edge.
    while width is not None and sum(widths[column] for column in shown) - _GAP > width and len(shown) > 4:
        shown.remove(min(shown, key=lambda column: column.priority))
    return shown


@dataclass(frozen=True)
class _Total:
    """One row of the comparison of totals."""

    label: str
    value: Callable[[Profile], float | None]
    formatter: Callable[[float], str]


_TOTALS = (
    _Total("parameters", lambda p: p.params, lambda n: f"{n:,}"),
    _Total("MAdds run", lambda p: p.macs, lambda n: f"{n:,}"),
    _Total("MAdds published", lambda p: p.published_macs, lambda n: f"{n:,}"),
    _Total("activations, peak in inference", lambda p: p.peak_bytes, _bytes),
    _Total("activations kept for backward", lambda p: p.saved_bytes, _bytes),
)


def comparison_table(profiles: Mapping[str, Profile], latencies: Mapping[str, float] | None = None) -> Table:
    """Return a table of the totals side by side, each with its ratio to that of the last profile.

    Args:
        profiles: Profiles by name.
        latencies: Latencies in milliseconds by the same names.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    *others, base = profiles
    table.add_column("")
    for name in profiles:
        table.add_column(name, justify="right", overflow="fold")
    for _ in others:
        table.add_column("ratio", justify="right")
    for total in _TOTALS:
        values = [total.value(profile) for profile in profiles.values()]
        table.add_row(total.label, *(_format_or_unknown(value, total.formatter) for value in values), *_ratios(values))
    if latencies is not None:
        times = [latencies[name] for name in profiles]
        table.add_row("latency in ms", *(_milliseconds(time) for time in times), *_ratios(times))
    if base != next(iter(profiles)):
        table.caption = f"ratio to {base}"
    return table


def _format_or_unknown(value: float | None, formatter: Callable[[float], str]) -> str:
    return "unknown" if value is None else formatter(value)


def _ratios(values: list[Any]) -> list[str]:
    *others, base = values
    return [f"{value / base:.3f}" if value is not None and base else "" for value in others]
