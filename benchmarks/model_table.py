"""Every registered network with its size, its committed latency and its measured accuracy: docs/models.md.

    python benchmarks/model_table.py docs/models.md  # two minutes of one core, little memory

Parameters and multiply-adds are computed here, for 1000 classes and one image of 3 x 224 x 224. Latency is read from
docs/results/benchmarks/latency.json, accuracy from the results of the Fashion-MNIST runs.
"""

import csv
import json
import sys
from pathlib import Path
from statistics import mean

import timm

import dynaconv
import dynaconv.models  # registers the networks with timm
from dynaconv.families import families
from dynaconv.files import write_text
from dynaconv.markdown import markdown_table, replace_between

RESULTS = Path(__file__).parents[1] / "docs" / "results"
MARKS = ("<!-- table: python benchmarks/model_table.py docs/models.md -->", "<!-- end of table -->")
COLUMNS = ("network", "parameters", "MAdds", "PyTorch", "native", "ONNX Runtime", "accuracy, Fashion-MNIST")
RUNTIMES = ("eager", "native", "ort")
STUDY = {"static": "static", "dcd": "dcd", "se": "se", "condconv": "condconv", "dyconv": "dyconv", "odconv": "odconv-4"}
"""Variant of the study of MobileNetV2 x0.35 by prefix of the registered name."""


def names() -> list[str]:
    """Return the registered networks by size, the static twin first."""
    prefixes = ["static", *(family.name for family in families())]
    known = {name: prefix for prefix in prefixes for name in timm.list_models(f"{prefix}_*")}

    def key(name: str) -> tuple[str, int, int, bool]:
        backbone = name.removeprefix(f"{known[name]}_").removesuffix("_published")
        kind = backbone.rstrip("0123456789")
        size = int(backbone.removeprefix(kind))
        return kind, size, prefixes.index(known[name]), name.endswith("_published")

    return sorted(known, key=key)


def latencies() -> dict[str, dict[str, float]]:
    """Return milliseconds of one image on one thread by registered name and runtime."""
    cells = json.loads((RESULTS / "benchmarks" / "latency.json").read_text(encoding="utf-8"))["cells"]
    found: dict[str, dict[str, float]] = {}
    for cell in cells:
        if cell["batch"] == cell["threads"] == 1 and "ms" in cell:
            prefix, _, suffix = cell["network"].partition("_")
            name = "_".join(filter(None, (prefix, cell["architecture"], suffix)))
            found.setdefault(name, {})[cell["runtime"]] = cell["ms"]
    return found


def accuracies() -> dict[str, str]:
    """Return measured accuracies in per cent by registered name."""
    found = {}
    with (RESULTS / "studies" / "mobilenetv2" / "results.csv").open(newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    for prefix, variant in STUDY.items():
        accuracy, half_width = (100 * float(rows[variant][column]) for column in ("accuracy", "accuracy_half_width"))
        found[f"{prefix}_mobilenetv2_035"] = f"{accuracy:.2f} ± {half_width:.2f} (a)"
    with (RESULTS / "fashion-mnist" / "table.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    for prefix in ("static", "dcd"):
        values = [100 * float(row["test accuracy"]) for row in runs if row["run"].startswith(f"{prefix}-")]
        found[f"{prefix}_resnet10"] = f"{mean(values):.2f} (b)"
    return found


def main(page: Path) -> None:
    """Write the table anew between its marks on the page."""
    times, measured = latencies(), accuracies()
    rows = []
    for name in names():
        model = timm.create_model(name, device="meta").eval()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        macs = dynaconv.profile(model, (1, 3, 224, 224)).published_macs
        cells = [f"{times[name][runtime]:.3g}" if runtime in times.get(name, {}) else "" for runtime in RUNTIMES]
        rows.append([f"`{name}`", f"{parameters:,}", f"{macs / 1e6:,.1f}M", *cells, measured.get(name, "")])
        print(name, flush=True)
    table = "\n".join(markdown_table(COLUMNS, rows, "lrrrrrr"))
    write_text(page, replace_between(page.read_text(encoding="utf-8"), MARKS, table))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
