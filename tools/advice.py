"""Writes src/dynaconv/study/advice.csv, and the table and figure of docs/does-it-pay.md, from the studies' results.

python tools/advice.py
"""

import csv
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from dynaconv.files import write_csv
from dynaconv.markdown import markdown_table, replace_between
from dynaconv.study.advice import Setting, fit_slope, loss_floor, prediction_error, read_settings
from dynaconv.study.statistics import Interval, paired_difference

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "docs" / "results" / "studies"
TABLE = ROOT / "src" / "dynaconv" / "study" / "advice.csv"
PAGE = ROOT / "docs" / "does-it-pay.md"
FIGURE = ROOT / "docs" / "images" / "does-it-pay.png"
MARKS = ("<!-- settings -->", "<!-- end of settings -->")
STEP_MARKS = ("<!-- steps -->", "<!-- end of steps -->")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a setting's runs are: a study and its variants.

    `time` trains for as long as DCD, `longer` for longer than that.
    """

    data: str
    network: str
    study: str
    static: str
    dcd: str
    classes: int
    parameters: str | None = None
    latency: str | None = None
    time: str | None = None
    longer: str | None = None
    smoothing: float = 0.1


def _sources() -> Iterator[Source]:
    for width in (4, 8, 12, 16, 32):
        yield Source(
            data="drawn characters",
            network=f"ResNet-10 {width}",
            study="glyphs-widths",
            static=f"static@{width}",
            dcd=f"dcd@{width}",
            parameters=f"static-parameters@{width}",
            latency=f"static-latency@{width}",
            time=f"static-time@{width}",
            longer=f"static-longer@{width}",
            classes=500,
        )
    yield Source(
        data="drawn characters",
        network="MobileNetV2 x0.2",
        study="glyphs-mobilenetv2",
        static="static@0.2",
        dcd="dcd@0.2",
        parameters="static-parameters@0.2",
        latency="static-latency@0.2",
        time="static-time@0.2",
        classes=500,
    )
    for data, study, classes in (("spoken words", "words-dcd", 80), ("clothes", "clothes-dcd", 10)):
        yield Source(
            data=data,
            network="ResNet-10 4",
            study=study,
            static="static@0.4",
            dcd="weight-norm@0.8",
            parameters="static-parameters@0.8",
            latency="static-latency@0.8",
            time="static-time@0.8",
            classes=classes,
        )
    yield Source(
        data="drawn letters",
        network="ResNet-10 4",
        study="rates-glyphs-mini",
        static="static@0.8",
        dcd="weight-norm@0.8",
        parameters="static-parameters@0.8",
        classes=87,
    )


@cache
def _accuracies(study: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = defaultdict(dict)
    with (STUDIES / study / "runs.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["state"] == "done":
                found[row["variant"]][int(row["seed"])] = 100 * float(row["test_accuracy"])
    return found


def _epochs(study: str, variant: str) -> int:
    recipes = json.loads((STUDIES / study / "study.json").read_text(encoding="utf-8"))["variants"]
    return int(recipes[variant]["trainer"]["max_epochs"])


def _last_epoch_loss(study: str, variant: str) -> float:
    with (STUDIES / study / "traces.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    runs = [name for name in rows[0] if name.startswith(f"{variant}/")]
    values = [[float(row[name]) for row in rows if row[name]] for name in runs]
    epochs = _epochs(study, variant)
    return statistics.mean(statistics.mean(run[-len(run) // epochs :]) for run in values)


def _gain_over(source: Source, control: str | None) -> Interval | None:
    found = _accuracies(source.study)
    return paired_difference(found.get(source.dcd, {}), found.get(control or "", {}))


def _setting(source: Source) -> Setting | None:
    gain = _gain_over(source, source.static)
    if gain is None or gain.half_width is None:
        return None

    def against(control: str | None) -> float | None:
        difference = _gain_over(source, control)
        return None if difference is None else difference.mean

    loss = _last_epoch_loss(source.study, source.static)
    return Setting(
        data=source.data,
        network=source.network,
        seeds=gain.count,
        excess=loss - loss_floor(source.classes, source.smoothing),
        accuracy=statistics.mean(_accuracies(source.study)[source.static].values()),
        gain=gain.mean,
        half_width=gain.half_width,
        parameters=against(source.parameters),
        latency=against(source.latency),
        time=against(source.time),
    )


def _steps_table(found: list[tuple[Source, Setting]]) -> str:
    """Return the step of DCD at which it is level with its static twin that trains for the same time.

    Between the two lengths that were run, the twin's accuracy is taken to grow with the logarithm of its training time.
    """
    columns = ("data", "network", "DCD gains", "static gains from training longer", "level at a step of", "DCD's step")
    rows = []
    for source, setting in found:
        runs = _accuracies(source.study)
        control = source.longer if source.longer in runs else source.time
        difference = _gain_over(source, control)
        if control is None or difference is None:
            continue
        longer = _epochs(source.study, control) / _epochs(source.study, source.static)
        static_gain = setting.gain - difference.mean
        level = longer ** (setting.gain / static_gain) if static_gain > 0 else math.inf
        costs = json.loads((STUDIES / source.study / "costs.json").read_text(encoding="utf-8"))["variants"]
        step = costs[source.dcd]["step_seconds"] / costs[source.static]["step_seconds"]
        gains = f"{setting.gain:+.1f}", f"{static_gain:+.1f} in {longer:.2f} times the epochs"
        rows.append((setting.data, setting.network, *gains, f"{level:.2f}", f"{step:.2f}"))
    return "\n".join(markdown_table(columns, rows, "llrrrr"))


def _write_csv(settings: list[Setting]) -> None:
    rows = [
        {key: f"{value:.3f}" if isinstance(value, float) else value for key, value in asdict(each).items()}
        for each in settings
    ]
    write_csv(TABLE, [field.name for field in fields(Setting)], rows)


def _write_page(settings: list[Setting], steps: str) -> None:
    columns = ("data", "network", "static, %", "loss above floor", "DCD gains", "at its parameters", "at its latency")
    rows = [
        (
            each.data,
            each.network,
            f"{each.accuracy:.1f}",
            f"{each.excess:.2f}",
            f"{each.gain:+.1f} ± {each.half_width:.1f}",
            *("" if value is None else f"{value:+.1f}" for value in (each.parameters, each.latency, each.time)),
        )
        for each in sorted(settings, key=lambda each: -each.excess)
    ]
    table = "\n".join(markdown_table((*columns, "in its training time"), rows, "llr"))
    slope, error = fit_slope(settings), prediction_error(settings)
    result = (
        f"The line is {slope:.1f} points per nat. A group that is left out of the fit is missed by {error:.1f} points."
    )
    page = replace_between(PAGE.read_text(encoding="utf-8"), MARKS, f"{table}\n\n{result}")
    PAGE.write_text(replace_between(page, STEP_MARKS, steps), encoding="utf-8")


def _draw(settings: list[Setting]) -> None:
    from matplotlib import pyplot as plt

    from dynaconv.explain.figures import png_bytes

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    markers = dict(zip(dict.fromkeys(each.group for each in settings), "osD^v", strict=False))
    for group, marker in markers.items():
        members = [each for each in settings if each.group == group]
        axes.errorbar(
            [each.excess for each in members],
            [each.gain for each in members],
            [each.half_width for each in members],
            fmt=marker,
            capsize=3,
            label=f"{group[0]}, {group[1]}",
        )
    right = 1.1 * max(each.excess for each in settings)
    slope, error = fit_slope(settings), prediction_error(settings)
    axes.plot([0, right], [0, slope * right], color="0.3")
    axes.fill_between(
        [0, right], [-error, slope * right - error], [error, slope * right + error], color="0.3", alpha=0.12
    )
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(
        xlabel="training loss of the static network above its floor, nats",
        ylabel="points that DCD gains over it",
        xlim=(0, right),
    )
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    FIGURE.write_bytes(png_bytes(figure))


def _found() -> list[tuple[Source, Setting]]:
    return [(source, setting) for source in _sources() if (setting := _setting(source)) is not None]


def find_settings() -> list[Setting]:
    """Return the settings of all sources whose two networks have been trained with at least two seeds."""
    return [setting for _, setting in _found()]


def main() -> None:
    """Write the three files."""
    found = _found()
    _write_csv([setting for _, setting in found])
    settings = read_settings()
    _write_page(settings, _steps_table(found))
    _draw(settings)


if __name__ == "__main__":
    main()
