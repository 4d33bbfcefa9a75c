"""The table, curves and log of the twins on Fashion-MNIST, from finished runs.

    for seed in 0 1 2; do for family in static dcd; do
        OMP_NUM_THREADS=1 dynaconv train --config fashion-mnist --model ${family}_resnet10 --seed $seed \\
            --out runs/fashion-mnist/$family-$seed
    done; done
    python benchmarks/fashion_mnist.py runs/fashion-mnist docs/results/fashion-mnist
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from dynaconv.explain.figures import read_metrics, save, training_curves
from dynaconv.files import write_csv, write_text
from dynaconv.markdown import markdown_table
from dynaconv.measure.profile import profile
from dynaconv.train.checkpoint import load_trained

COLUMNS = ("run", "parameters", "MAdds", "seconds", "test accuracy", "test loss", "epoch kept")


def read(run: Path) -> dict[str, Any]:
    """One row of the table, from a finished run's own files."""
    summary = json.loads((run / "summary.json").read_text())
    model, metadata = load_trained(run)
    size = (metadata["in_channels"], metadata["image_size"], metadata["image_size"])
    return {
        "run": run.name,
        "parameters": summary["params"],
        "MAdds": profile(model, size).macs,
        "seconds": round(summary["train_seconds"]),
        "test accuracy": summary["test_accuracy"],
        "test loss": summary["test_loss"],
        "epoch kept": summary["weights"]["epoch"],
        "summary": summary,
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table, and means over seeds."""
    cells = []
    for row in rows:
        cells.append([row["run"], f"{row['parameters']:,}", f"{row['MAdds'] / 1e6:.1f} M", f"{row['seconds']:,}"])
        cells[-1] += [f"{row['test accuracy']:.2%}", f"{row['test loss']:.4f}", row["epoch kept"]]
    lines = [*markdown_table(COLUMNS, cells), ""]
    families = sorted({row["run"].rsplit("-", 1)[0] for row in rows}, reverse=True)
    means = {}
    for family in families:
        accuracies = [row["test accuracy"] for row in rows if row["run"].rsplit("-", 1)[0] == family]
        means[family] = accuracies
        spread = f", standard deviation {statistics.stdev(accuracies):.2%}" if len(accuracies) > 1 else ""
        lines.append(f"- {family}: mean {statistics.mean(accuracies):.2%} over {len(accuracies)} seeds{spread}")
    if {"dcd", "static"} <= means.keys():
        seeds = sorted(row["run"].rsplit("-", 1)[1] for row in rows if row["run"].startswith("dcd-"))
        by_run = {row["run"]: row["test accuracy"] for row in rows}
        paired = [by_run[f"dcd-{seed}"] - by_run[f"static-{seed}"] for seed in seeds if f"static-{seed}" in by_run]
        each = ", ".join(f"{100 * difference:+.2f}" for difference in paired)
        lines.append(f"- dcd minus static, seed by seed, in points: {each}; mean {100 * statistics.mean(paired):+.2f}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read every finished run under a folder and write the results' folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    found = sorted(file.parent for file in args.runs.glob("*/summary.json"))
    if not found:
        parser.error(f"there is no finished run under {args.runs}")
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [read(run) for run in found]
    write_text(args.out / "table.md", markdown(rows))
    write_csv(args.out / "table.csv", COLUMNS, [{key: row[key] for key in COLUMNS} for row in rows])
    first = [run for run in found if run.name.endswith("-0")] or found
    curves = {run.name.rsplit("-", 1)[0]: read_metrics(run / "metrics.csv") for run in reversed(first)}
    save(training_curves(curves), args.out / "curves.png")
    for run in found:
        for name in ("metrics.csv", "summary.json", "config.yaml"):
            shutil.copy(run / name, args.out / f"{run.name}.{name}")
    print((args.out / "table.md").read_text())


if __name__ == "__main__":
    main()
