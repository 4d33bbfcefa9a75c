"""Means over seeds, how well they are known, and differences between pairs of runs of one seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: Of the values.
        half_width: The interval is ``mean`` plus or minus this; None for a single value, which tells no spread.
        count: Number of values.
    """

    mean: float
    half_width: float | None
    count: int

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is above or below zero, else 0."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return 0
        return 1 if self.mean > 0 else -1


def t_interval(values: Sequence[float]) -> Interval | None:
    """Mean and 95 % interval by Student's t, as for values from one normal distribution; None without values."""
    from scipy.stats import t

    if not values:
        return None
    count = len(values)
    if count == 1:
        return Interval(mean=values[0], half_width=None, count=1)
    error = statistics.stdev(values) / math.sqrt(count)
    quantile = float(t.ppf(0.5 + CONFIDENCE / 2, count - 1))
    return Interval(mean=statistics.mean(values), half_width=quantile * error, count=count)


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Interval | None:
    """Interval of the differences seed by seed, over the seeds that both have; None where they share none.

    Runs of one seed see the same images in the same order, so their difference varies less than they do.
    """
    return t_interval([values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())])


def paired_shares(reference: Sequence[bool], values: Sequence[bool]) -> Interval:
    """Difference of two shares that were found on the same items, such as the accuracies of two networks.

    The 95 % interval is that of a normal distribution with the variance of the pairs. It takes items as independent; it
    says how the difference would vary with other items, not with other seeds of a training.

    Raises:
        ValueError: The two have not the same number of items, or none.
    """
    if len(reference) != len(values):
        raise ValueError(f"the two have {len(reference)} and {len(values)} items; pairs need the same ones.")
    pairs = [int(value) - int(other) for value, other in zip(values, reference, strict=True)]
    if not pairs:
        raise ValueError("no items to compare.")
    mean = statistics.mean(pairs)
    error = math.sqrt(statistics.pvariance(pairs, mean) / len(pairs))
    return Interval(
        mean=mean, half_width=statistics.NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * error, count=len(pairs)
    )
