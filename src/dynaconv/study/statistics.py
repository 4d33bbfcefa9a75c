"""Means over seeds with confidence intervals, and paired differences between runs of the same seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: Mean of the values.
        half_width: The interval is ``mean`` plus or minus this; None for a single value, which has no spread.
        count: Number of values.
    """

    mean: float
    half_width: float | None
    count: int

    @property
    def sign(self) -> int:
        """1 or -1 if the whole interval is above or below zero, else 0."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return 0
        return 1 if self.mean > 0 else -1


def t_interval(values: Sequence[float]) -> Interval | None:
    """Return mean and 95 % interval by Student's t, assuming a normal distribution; None without values."""
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
    """Return the interval of the differences, seed by seed, over the seeds that both have; None if they share none.

    Runs of one seed use the same images in the same order, so their difference varies less than the single values.
    """
    return t_interval([values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())])


def paired_shares(reference: Sequence[bool], values: Sequence[bool]) -> Interval:
    """Return the difference of two shares that were measured on the same items, such as two networks' accuracies.

    The 95 % interval is that of a normal distribution with the variance of the pairs. It assumes independent items and
    describes the variation over other items, not over other training seeds.

    Raises:
        ValueError: The two have different numbers of items, or none.
    """
    if len(reference) != len(values):
        raise ValueError(f"the two have {len(reference)} and {len(values)} items; pass results on the same items.")
    pairs = [int(value) - int(other) for value, other in zip(values, reference, strict=True)]
    if not pairs:
        raise ValueError("there are no items to compare.")
    mean = statistics.mean(pairs)
    error = math.sqrt(statistics.pvariance(pairs, mean) / len(pairs))
    return Interval(
        mean=mean, half_width=statistics.NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * error, count=len(pairs)
    )
