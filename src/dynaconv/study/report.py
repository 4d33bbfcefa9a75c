"""A study's report: tables as Markdown and CSV, figures, and published claims compared with the results."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dynaconv.explain.figures import save
from dynaconv.files import write_csv, write_text
from dynaconv.markdown import markdown_table, write_page
from dynaconv.study.claims import judge
from dynaconv.study.definition import Figure, Table
from dynaconv.study.figures import draw
from dynaconv.study.folder import COSTS_FILE
from dynaconv.study.record import PAGE_FILE, RESULTS_FILE, write_record
from dynaconv.study.results import Results, VariantResults
from dynaconv.study.statistics import Interval
from dynaconv.train.config import DEFAULT_EPOCHS

COLUMNS = (
    "variant",
    "title",
    "seeds",
    "accuracy",
    "accuracy_half_width",
    "difference",
    "difference_half_width",
    "val_accuracy",
    "diverged",
    "parameters",
    "madds",
    "madds_executed",
    "step_seconds",
    "step_peak_bytes",
    "latency_seconds",
    "native_seconds",
)

CONTRASTS_FILE = "contrasts.csv"
_RATIOS = ("parameters", "madds", "native_seconds", "step_seconds")
CONTRAST_COLUMNS = (
    *("contrast", "title", "variant", "against", "seeds", "difference", "half_width"),
    *_RATIOS,
    "training_seconds",
)


def write_report(results: Results, out: Path) -> Path:
    """Write the page, its figures and the CSV tables to a folder, and return the page's path.

    Args:
        results: Results of a study in which at least one run has ended.
        out: The folder; files of an earlier report in it are replaced.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / RESULTS_FILE, COLUMNS, [_row(variant, results) for variant in results.variants.values()])
    write_record(results, out)
    costs = results.folder.path / COSTS_FILE
    if costs.is_file():
        write_text(out / COSTS_FILE, costs.read_text(encoding="utf-8"))
    figures = [text for figure in results.study.figures for text in _figure_section(figure, results, out)]
    parts = [_header(results), *(_table(table, results) for table in results.study.tables)]
    if results.study.contrasts:
        write_csv(out / CONTRASTS_FILE, CONTRAST_COLUMNS, list(contrast_rows(results)))
        parts.append(_contrasts(results))
    parts += figures
    if results.study.claims:
        parts.append(claims_table(results))
    write_page(out / PAGE_FILE, [*parts, _footer(results)])
    return out / PAGE_FILE


def _figure_section(figure: Figure, results: Results, out: Path) -> list[str]:
    """Draw a figure, and return its Markdown paragraphs; none if there is nothing to draw yet."""
    file, link = out / f"{figure.name}.png", f"![{figure.title}]({figure.name}.png)"
    drawn = draw(figure, results)
    if drawn is not None:
        save(drawn, file)
    if not figure.kind.startswith("loss"):
        return [link] if drawn is not None else []
    done = sum(len(results.variants[name].accuracy) for name in figure.variants)
    traced = sum(results.traced(name) for name in figure.variants)
    if drawn is not None:
        few = f"{figure.title}: of {traced} of the {done} runs; the training loss of the others was not kept."
        return [link] if traced == done else [link, few]
    return []


def _row(variant: VariantResults, results: Results) -> dict[str, Any]:
    mean = variant.mean
    difference = variant.difference(results.reference) if variant is not results.reference else None
    validation = list(variant.val_accuracy.values())
    cost = variant.cost or {}
    row = {
        "variant": variant.name,
        "title": variant.title,
        "seeds": len(variant.accuracy),
        "accuracy": mean and mean.mean,
        "accuracy_half_width": mean and mean.half_width,
        "difference": difference and difference.mean,
        "difference_half_width": difference and difference.half_width,
        "val_accuracy": sum(validation) / len(validation) if validation else None,
        "diverged": sum(state == "diverged" for state in variant.states.values()),
        "parameters": variant.parameters or cost.get("parameters"),
        **{name: cost.get(name) for name in COLUMNS[10:]},
    }
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}


def _header(results: Results) -> str:
    study = results.study
    states = Counter(state for variant in results.variants.values() for state in variant.states.values())
    counted = ", ".join(f"{count} {state}" for state, count in states.items())
    open_ = sum(count for state, count in states.items() if state not in ("done", "diverged", "failed"))
    unfinished = "" if not open_ else " The study is not finished: means are over the seeds that are done."
    note = f"{study.note}\n\n" if study.note else ""
    return f"# {study.title}\n\n{note}Runs: {counted}.{unfinished}"


def _table(table: Table, results: Results) -> str:
    """Return a Markdown table without the columns that no variant fills."""
    if all("@" in name for name in table.variants) and len({name.rpartition("@")[0] for name in table.variants}) > 1:
        return f"## {table.title}\n\n" + _sweep_table(table, results)
    reference = results.reference
    rows = [_cells(results.variants[name], reference) for name in table.variants]
    names = [name for name in rows[0] if name in ("variant", "runs", "test accuracy") or any(row[name] for row in rows)]
    cells = [[row[name] for name in names] for row in rows]
    return f"## {table.title}\n\n" + "\n".join(markdown_table(names, cells))


def _sweep_table(table: Table, results: Results) -> str:
    """Return a table of families by values of the sweep; a cell is the accuracy, or the states of the runs."""
    pairs = [name.rpartition("@") for name in table.variants]
    families = list(dict.fromkeys(family for family, _, _ in pairs))
    values = list(dict.fromkeys(value for _, _, value in pairs))
    # A family need not have every value.
    titles = {family: results.variants[name].title for name, (family, _, _) in zip(table.variants, pairs, strict=True)}
    swept = titles[families[0]].rpartition(", ")[2].rpartition(" ")[0]

    def table_of(metric: str, mean: Callable[[VariantResults], Interval | None]) -> str:
        rows = []
        for family in families:
            shown = [results.variants.get(f"{family}@{value}") for value in values]
            cells = ["" if each is None else _percent(mean(each)) or each.runs() for each in shown]
            rows.append([titles[family].rpartition(", ")[0], *cells])
        return "\n".join(markdown_table([f"{metric} accuracy by {swept}", *values], rows))

    tables = [table_of("test", lambda variant: variant.mean)]
    if any(results.variants[name].val_accuracy for name in table.variants):
        tables.append(table_of("validation", lambda variant: variant.val_mean))
    return "\n\n".join(tables)


def contrast_rows(results: Results) -> Iterator[dict[str, Any]]:
    """Yield a row for each pair of the study's contrasts: paired difference of accuracy, and ratios of the costs."""
    for contrast in results.study.contrasts:
        for names in contrast.pairs:
            variant, against = (results.variants[name] for name in names)
            difference = variant.difference(against)
            row: dict[str, Any] = {
                "contrast": contrast.name,
                "title": contrast.title,
                "variant": names[0],
                "against": names[1],
            }
            if difference is not None:
                row |= {"seeds": difference.count, "difference": difference.mean, "half_width": difference.half_width}
            row |= {name: _ratio(variant, against, name) for name in _RATIOS}
            epochs = [results.study.variants[name].config.trainer.get("max_epochs", DEFAULT_EPOCHS) for name in names]
            step = row["step_seconds"]
            row["training_seconds"] = None if step is None else step * epochs[0] / epochs[1]
            yield {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}


def _ratio(variant: VariantResults, against: VariantResults, name: str) -> float | None:
    if variant.cost is None or against.cost is None or not (variant.cost.get(name) and against.cost.get(name)):
        return None
    return float(variant.cost[name] / against.cost[name])


def _contrasts(results: Results) -> str:
    costs = ("parameters", "MAdds", "native latency", "step", "training")
    names = ("compared", "variant", "against", "seeds", "points", *costs)
    rows = []
    for row in contrast_rows(results):
        if "difference" not in row:
            # The two have no finished runs of the same seed yet.
            continue
        titles = [results.variants[row[key]].title for key in ("variant", "against")]
        shown = Interval(mean=row["difference"], half_width=row["half_width"], count=row["seeds"])
        ratios = ["" if row[name] is None else f"{row[name]:.2f}" for name in (*_RATIOS, "training_seconds")]
        rows.append([row["title"], *titles, str(row["seeds"]), _percent(shown, sign="+"), *ratios])
    intro = "Points of test accuracy, paired by seed, with the 95 % interval; the rest are ratios, variant to against; "
    intro += "training is the ratio of all steps together."
    return f"## Like with like\n\n{intro}\n\n" + "\n".join(markdown_table(names, rows))


def _cells(variant: VariantResults, reference: VariantResults) -> dict[str, str]:
    validation, cost = list(variant.val_accuracy.values()), variant.cost
    difference = variant.difference(reference) if variant is not reference else None
    parameters = variant.parameters or (cost["parameters"] if cost else None)
    return {
        "variant": variant.title,
        "runs": variant.runs(),
        "test accuracy": _percent(variant.mean),
        f"minus {reference.title}": _percent(difference, sign="+"),
        "validation accuracy": f"{100 * sum(validation) / len(validation):.2f}" if validation else "",
        "parameters": f"{parameters:,}" if parameters else "",
        "MAdds": f"{cost['madds'] / 1e6:.2f}M" if cost else "",
        "MAdds run": f"{cost['madds_executed'] / 1e6:.2f}M" if cost else "",
        "ms a step": f"{1e3 * cost['step_seconds']:.0f}" if cost else "",
        "MB in a step": f"{cost['step_peak_bytes'] / 1e6:.0f}" if cost else "",
        "inference ms": f"{1e3 * cost['latency_seconds']:.2f}" if cost else "",
        "native us": f"{1e6 * cost['native_seconds']:.0f}" if cost and cost.get("native_seconds") else "",
    }


def _percent(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return ""
    spread = "" if interval.half_width is None else f" ± {100 * interval.half_width:.2f}"
    return f"{100 * interval.mean:{sign}.2f}{spread}"


def claims_table(results: Results) -> str:
    """Return a table of the published claims and the study's findings."""
    findings = [judge(claim, results) for claim in results.study.claims]
    names = ("claim", "published (ImageNet)", "here", "verdict")
    rows = [(f.claim.text, f.claim.published, f.found, f.verdict) for f in findings]
    intro = (
        "A verdict on accuracy needs a 95 % interval on one side of zero; one on times, quartiles of the ratio within "
        "a round on one side of one. It is about the sign alone, not the size. No correction is made for the number "
        "of claims."
    )
    return f"## Published claims\n\n{intro}\n\n" + "\n".join(markdown_table(names, rows, "l"))


def _footer(results: Results) -> str:
    lines = [
        "Accuracy in per cent, mean over seeds and 95 % t-interval; differences are taken seed by seed, with the "
        "interval of the pairs."
    ]
    threads = sorted({count for variant in results.variants.values() for count in variant.threads})
    versions = sorted({text for variant in results.variants.values() for text in variant.versions})
    if versions:
        lines.append(f"Runs: {' or '.join(map(str, threads))} thread(s); {' and '.join(versions)}.")
    if results.conditions:
        c = results.conditions
        size = " x ".join(map(str, c["input_size"]))
        lines.append(
            f"Costs: batch {c['batch']} of {size} for a step, batch 1 for inference, {c['device']}, {c['threads']} "
            f"thread(s), torch {c['torch']}, dynaconv {c['dynaconv']}, medians of {c['rounds']} rounds in turns "
            f"({c['measured']}); MAdds as the papers count them, MAdds run as executed."
        )
    else:
        lines.append("Costs are not measured yet (`--costs`).")
    return "\n\n".join(lines)
