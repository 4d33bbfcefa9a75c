"""The table, the figure and the files of the fine-tuned twins, from the records in a folder."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from dynaconv.explain.figures import COLOURS, save
from dynaconv.files import write_csv, write_json, write_text

Record = Mapping[str, Any]
FAMILIES = ("static", "dcd")
COLUMNS = ("family", "seed", "test_accuracy", "test_loss", "seconds", "cpu_seconds")


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of every seed that both families have finished, by seed, the static one first."""
    records = [json.loads(file.read_text()) for family in FAMILIES for file in folder.glob(f"{family}-*.json")]
    seeds = [{record["seed"] for record in of_family(records, family)} for family in FAMILIES]
    finished = set.intersection(*seeds)
    return sorted((r for r in records if r["seed"] in finished), key=lambda r: (r["seed"], FAMILIES.index(r["family"])))


def of_family(records: Sequence[Record], family: str) -> list[Record]:
    """The records of one family."""
    return [record for record in records if record["family"] == family]


def table(records: Sequence[Record], costs: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table of both families, and the difference seed by seed.

    Args:
        records: Of both families, with the same seeds, in the order of `read_records`.
        costs: By family: ``params``, ``macs`` of one image, and ``latency``, the ratio to the static network's.
    """
    lines = ["| network | parameters | MAdds | CPU seconds | latency | test accuracy |", "|" + " --- |" * 6]
    for family, cost in costs.items():
        own = of_family(records, family)
        accuracies = [record["test_accuracy"] for record in own]
        spread = f" ± {100 * statistics.stdev(accuracies):.2f}" if len(own) > 1 else ""
        cells = [family, f"{cost['params']:,}", f"{cost['macs'] / 1e6:.1f} M"]
        cells += [f"{statistics.mean(record['cpu_seconds'] for record in own):.0f}", f"x{cost['latency']:.2f}"]
        cells += [f"{100 * statistics.mean(accuracies):.2f}{spread} %"]
        lines.append(f"| {' | '.join(cells)} |")
    gains = paired_gains(records)
    each = ", ".join(f"{100 * gain:+.2f}" for gain in gains)
    lines += ["", f"DCD minus static, seed by seed, in points: {each}; mean {100 * statistics.mean(gains):+.2f}."]
    return "\n".join(lines) + "\n"


def paired_gains(records: Sequence[Record]) -> list[float]:
    """Test accuracy of DCD minus that of static, seed by seed."""
    pairs = zip(of_family(records, "static"), of_family(records, "dcd"), strict=True)
    return [dcd["test_accuracy"] - static["test_accuracy"] for static, dcd in pairs]


def curves(records: Sequence[Record]) -> Figure:
    """Training loss by step, each seed thin and their mean bold, and accuracy on the validation images by epoch."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for family, colour in zip(FAMILIES, COLOURS, strict=False):
        own = of_family(records, family)
        smoothed = [_smooth(record["step_loss"]) for record in own]
        for values in smoothed:
            loss.plot(range(1, len(values) + 1), values, color=colour, linewidth=0.7, alpha=0.4)
        mean = [statistics.mean(at) for at in zip(*smoothed, strict=True)]
        loss.plot(range(1, len(mean) + 1), mean, color=colour, linewidth=2, label=family)
        epochs = range(1, len(own[0]["val_accuracy"]) + 1)
        for record in own:
            accuracy.plot(epochs, record["val_accuracy"], "o", color=colour, markersize=4, alpha=0.5)
        by_epoch = [statistics.mean(at) for at in zip(*(record["val_accuracy"] for record in own), strict=True)]
        accuracy.plot(epochs, by_epoch, color=colour, linewidth=2, label=family)
    loss.set(xlabel="training step", ylabel="cross-entropy", yscale="log")
    loss.set_yticks((0.1, 0.2, 0.5, 1, 2), labels=("0.1", "0.2", "0.5", "1", "2"))
    loss.yaxis.set_minor_locator(NullLocator())
    loss.set_title("Training loss, running mean", loc="left", fontsize=11)
    accuracy.set(xlabel="epoch", ylabel="accuracy")
    accuracy.set_title("Validation images; a point is a seed", loc="left", fontsize=11)
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (loss, accuracy):
        axes.grid(True, which="both", color="0.9", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


def _smooth(values: Sequence[float], keep: float = 0.95) -> list[float]:
    """A running mean with exponential weights, free of the bias of its start."""
    total, weight, smoothed = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + 1 - keep
        smoothed.append(total / weight)
    return smoothed


def write_results(folder: Path, records: Sequence[Record], costs: Mapping[str, Mapping[str, Any]], note: str) -> str:
    """Write ``results.md``, ``results.csv``, ``results.json`` and ``curves.png``; return the table."""
    text = table(records, costs)
    write_text(folder / "results.md", f"{text}\n{note}\n")
    write_csv(folder / "results.csv", COLUMNS, [{key: record[key] for key in COLUMNS} for record in records])
    write_json(folder / "results.json", {"costs": costs, "note": note, "trainings": records})
    save(curves(records), folder / "curves.png")
    return text
