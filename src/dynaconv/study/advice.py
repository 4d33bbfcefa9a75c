"""Predicts the gain of a DCD network over its static twin from how far the static network underfits.

The fit is a line through zero over the settings of ``advice.csv``, which ``tools/advice.py`` makes from the studies'
results: points of test accuracy by nats of training loss above its floor. Its error is that of each group of settings,
one data set and architecture, predicted from all others.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from numbers import Integral

from dynaconv.errors import RunError, received


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One static network of a study, beside its DCD twin and static networks of the twin's costs.

    Attributes:
        data: Name of the data set.
        network: Architecture and width.
        seeds: Number of seeds of both networks.
        excess: Training loss of the static network in its last epoch, above its floor, in nats.
        accuracy: Its test accuracy in per cent.
        gain: Points of accuracy of DCD over it, paired by seed.
        half_width: Half width of the 95 % interval of ``gain``.
        parameters, latency, time: Points of DCD over a static network of its parameters, native latency and training
            time; None if not measured.
    """

    data: str
    network: str
    seeds: int
    excess: float
    accuracy: float
    gain: float
    half_width: float
    parameters: float | None
    latency: float | None
    time: float | None

    @property
    def group(self) -> tuple[str, str]:
        """Data set and architecture, without the width."""
        return self.data, self.network.partition(" ")[0]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Expected gain of a DCD network over its static twin.

    Attributes:
        excess: Training loss of the static network above its floor, in nats.
        gain: Expected points of test accuracy.
        error: Root mean square error of predictions for settings that were left out of the fit, in points.
        known: Whether ``excess`` lies within the studies' settings.
    """

    excess: float
    gain: float
    error: float
    known: bool


def read_settings() -> list[Setting]:
    """Return the settings that the prediction is fitted on."""
    text = (resources.files("dynaconv.study") / "advice.csv").read_text(encoding="utf-8")
    return [_setting(row) for row in csv.DictReader(text.splitlines())]


def _setting(row: Mapping[str, str]) -> Setting:
    names = ("excess", "accuracy", "gain", "half_width", "parameters", "latency", "time")
    values = {name: float(row[name]) if row[name] else None for name in names}
    return Setting(data=row["data"], network=row["network"], seeds=int(row["seeds"]), **values)  # type: ignore[arg-type]


def loss_floor(num_classes: int, label_smoothing: float) -> float:
    """Return the smallest cross-entropy against smoothed labels, in nats: the entropy of the labels."""
    other = label_smoothing / num_classes
    shares = {1 - label_smoothing + other: 1, other: num_classes - 1}
    return -sum(count * share * math.log(share) for share, count in shares.items() if share > 0)


def fit_slope(settings: Sequence[Setting]) -> float:
    """Return the least-squares slope through zero, in points per nat; every group has the same weight."""
    above = below = 0.0
    for members in _groups(settings).values():
        above += sum(each.excess * each.gain for each in members) / len(members)
        below += sum(each.excess**2 for each in members) / len(members)
    return above / below


def prediction_error(settings: Sequence[Setting]) -> float:
    """Return the root mean square error of the groups' mean gains, each predicted from the other groups."""
    squares = []
    for group, members in _groups(settings).items():
        slope = fit_slope([each for each in settings if each.group != group])
        squares.append(sum(each.gain - slope * each.excess for each in members) ** 2 / len(members) ** 2)
    return math.sqrt(sum(squares) / len(squares))


def _groups(settings: Sequence[Setting]) -> dict[tuple[str, str], list[Setting]]:
    groups: dict[tuple[str, str], list[Setting]] = {}
    for each in settings:
        groups.setdefault(each.group, []).append(each)
    return groups


def advise(train_loss: float, num_classes: int, label_smoothing: float = 0.0) -> Advice:
    """Predict what DCD gains over a static network, from the static network's training loss at its end.

    Args:
        train_loss: Mean cross-entropy of the last epoch, in nats, against the labels that it is trained with.
        num_classes: Number of classes, at least 2.
        label_smoothing: Fraction of the target that is spread over all classes, in [0, 1).

    Raises:
        RunError: A value is out of range, or the loss is below its floor, so that one of them is wrong.
    """
    if (
        not isinstance(num_classes, Integral)
        or num_classes < 2
        or not 0 <= label_smoothing < 1
        or not math.isfinite(train_loss)
    ):
        raise RunError(
            f"a prediction needs a finite loss, at least 2 classes and a smoothing in [0, 1); got "
            f"{received(train_loss)}, {received(num_classes)} and {received(label_smoothing)}."
        )
    excess = train_loss - loss_floor(num_classes, label_smoothing)
    if excess < 0:
        raise RunError(
            f"the training loss {train_loss:.3f} is below {train_loss - excess:.3f}, the least that {num_classes} "
            f"classes with label smoothing {label_smoothing} allow; check the three values."
        )
    settings = read_settings()
    known = excess <= max(each.excess for each in settings)
    return Advice(excess=excess, gain=fit_slope(settings) * excess, error=prediction_error(settings), known=known)
