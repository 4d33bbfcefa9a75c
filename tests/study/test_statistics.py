"""Intervals, against cases computed by hand and by simulation."""

import math

import pytest
import torch

from dynaconv.study.statistics import Interval, paired_difference, paired_shares, t_interval
from tests.messages import refuses


def test_an_interval_by_hand() -> None:
    """2, 4, 6: mean 4, standard deviation 2, and a table of Student's t has 4.3027 at two degrees of freedom."""
    found = t_interval([2.0, 4.0, 6.0])
    assert found is not None
    assert (found.mean, found.count) == (4.0, 3)
    assert found.half_width == pytest.approx(4.302653 * 2 / math.sqrt(3), rel=1e-6)


def test_a_single_value_has_no_spread_and_none_has_no_mean() -> None:
    assert t_interval([0.5]) == Interval(mean=0.5, half_width=None, count=1)
    assert t_interval([]) is None


def test_differences_are_taken_seed_by_seed_over_those_that_both_have() -> None:
    """1 - 0 = 1, 5 - 2 = 3: mean 2, standard deviation sqrt(2), t 12.7062 at one degree of freedom."""
    found = paired_difference({0: 1.0, 1: 5.0, 2: 100.0}, {0: 0.0, 1: 2.0, 7: 9.0})
    assert found is not None
    assert (found.mean, found.count) == (2.0, 2)
    assert found.half_width == pytest.approx(12.706205 * math.sqrt(2) / math.sqrt(2), rel=1e-6)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_a_shift_common_to_a_seed_leaves_the_paired_difference() -> None:
    plain = paired_difference({0: 0.1, 1: 0.3, 2: 0.2}, {0: 0.2, 1: 0.1, 2: 0.2})
    shifted = paired_difference({0: 10.1, 1: 0.3, 2: -4.8}, {0: 10.2, 1: 0.1, 2: -4.8})
    assert plain is not None
    assert shifted is not None
    assert shifted.mean == pytest.approx(plain.mean)
    assert shifted.half_width == pytest.approx(plain.half_width)


@pytest.mark.parametrize(
    ("mean", "half_width", "sign"), [(1.0, 0.5, 1), (-1.0, 0.5, -1), (1.0, 1.5, 0), (-1.0, 1.0, 0), (1.0, None, 0)]
)
def test_the_sign_is_known_where_the_whole_interval_has_it(mean: float, half_width: float | None, sign: int) -> None:
    assert Interval(mean=mean, half_width=half_width, count=3).sign == sign


def test_the_interval_holds_the_true_mean_95_times_in_100() -> None:
    draws = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    found = [t_interval(row) for row in draws.tolist()]
    held = sum(abs(each.mean - 3) <= (each.half_width or 0) for each in found if each is not None)
    # Three standard deviations of a binomial count of 2000 draws at 0.95.
    assert abs(held / 2000 - 0.95) < 0.015


def test_paired_shares_are_the_difference_of_means_with_the_variance_of_the_pairs() -> None:
    reference, values = [True, True, False, False], [True, False, True, True]
    found = paired_shares(reference, values)
    assert (found.mean, found.count) == (0.25, 4)
    # Pairs 0, -1, 1, 1.
    assert found.half_width == pytest.approx(1.959964 * (0.75 - 0.25**2) ** 0.5 / 2)
    with refuses(ValueError):
        paired_shares([], [])
    with refuses(ValueError):
        paired_shares([True], [True, False])
