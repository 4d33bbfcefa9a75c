"""Export of a profile as rows of exact numbers and as plain values."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynaconv.measure.profile import Profile

OUTSIDE = "(outside any layer)"
TOTAL = "total"
# Columns whose total can include work outside the layers.
_SUMS = ("params", "macs", "published_macs", "latency_ms")
COLUMNS = (
    "name",
    "kind",
    "algorithm",
    "calls",
    "output_shape",
    "params",
    "macs",
    "published_macs",
    "output_bytes",
    "peak_bytes",
    "latency_ms",
)


def outside_row(profile: Profile) -> dict[str, Any]:
    """Return the row of the work outside any layer, such as the time between two layers; empty if there is none."""
    rest = {key: value for key in _SUMS if (value := _outside(profile, key)) is not None}
    return {"name": OUTSIDE, **rest} if rest["params"] or rest["macs"] or "latency_ms" in rest else {}


def total_row(profile: Profile) -> dict[str, Any]:
    """Return the totals. Each is the sum of the rows above, except `peak_bytes`."""
    output_bytes = sum(layer.output_bytes for layer in profile.layers)
    totals = {key: getattr(profile, key) for key in ("params", "macs", "published_macs", "peak_bytes", "latency_ms")}
    return {"name": TOTAL, "output_bytes": output_bytes, **totals}


def profile_dict(profile: Profile) -> dict[str, Any]:
    """Return all numbers, exact, as plain values for JSON."""
    total = total_row(profile)
    del total["name"]
    return {
        "input_size": list(profile.input_size),
        **total,
        "peak_layer": profile.peak_layer,
        "saved_bytes": profile.saved_bytes,
        "saved_refusal": profile.saved_refusal,
        "conditions": profile.conditions,
        "layers": [dataclasses.asdict(layer) for layer in profile.layers],
        "outside": {key: value for key, value in outside_row(profile).items() if key != "name"},
    }


def csv_rows(profile: Profile) -> list[dict[str, Any]]:
    """Return one row per layer, one for work outside any layer if there is any, and the totals."""
    rows = [dataclasses.asdict(layer) for layer in profile.layers]
    rows += [row for row in (outside_row(profile), total_row(profile)) if row]
    return [{**row, "output_shape": dimensions(row.get("output_shape"))} for row in rows]


def dimensions(shape: tuple[int, ...] | None) -> str:
    """Return text such as ``1x8x28x28``, or an empty string if there is no shape."""
    return "x".join(str(n) for n in shape or ())


def _outside(profile: Profile, key: str) -> Any:
    total = total_row(profile)[key]
    return None if total is None else total - sum(getattr(layer, key) for layer in profile.layers)
