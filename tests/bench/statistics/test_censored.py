import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from headstart.bench.statistics.censored import censored_median, median_interval, steps_to
from headstart.bench.statistics.paired import Interval


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([10, 80, 90, 92], 15.0),  # half way from 80 to 90
        ([85, 86, 87, 88], 0.0),  # there from the start
        ([10, 85, 85, 85], 10.0),  # the threshold itself counts
        ([10, 90, 80, 92], 20 + 10 * 5 / 12),  # a lucky evaluation alone does not
        ([10, 20, 30, 90], 20 + 10 * 55 / 60),  # the last has no next to fall below it
        ([10, 90, 80, 84], None),
        ([10, 20, 30, 40], None),
    ],
)
def test_a_curve_reaches_a_threshold_between_two_evaluations_and_stays(values, expected):
    assert steps_to([0, 10, 20, 30], values, 85) == (pytest.approx(expected) if expected is not None else None)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.floats(0, 100))
@settings(deadline=None, max_examples=100)
def test_a_curve_is_at_the_threshold_where_it_is_said_to_reach_it(values, threshold):
    steps = list(range(0, 7 * len(values), 7))
    found = steps_to(steps, values, threshold)
    if found is None:
        assert values[-1] < threshold
    else:
        assert np.interp(found, steps, values) == pytest.approx(threshold) or (found == 0 and values[0] >= threshold)


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (8, 1), (9, 2), (12, 3), (20, 6), (30, 10), (100, 40)])
def test_median_interval_has_the_ranks_of_the_textbook_tables(n, rank):
    times = list(np.random.default_rng(n).permutation(n) + 1.0)
    assert median_interval(times) == Interval(rank, n + 1 - rank)


@pytest.mark.parametrize("n", [6, 8, 9, 12, 20, 33, 100])
def test_median_interval_equals_scipys_quantile_test(n):
    times = np.random.default_rng(n).normal(size=n)
    theirs = stats.quantile_test(times, q=0, p=0.5).confidence_interval(0.95)
    assert median_interval(list(times)) == Interval(*map(float, theirs))


@pytest.mark.parametrize("n", range(1, 60))
def test_median_interval_is_the_narrowest_that_has_the_level(n):
    interval = median_interval(list(range(1, n + 1)))

    def coverage(rank):
        return 1 - 2 * stats.binom.cdf(rank - 1, n, 0.5)

    if interval.bounded:
        assert coverage(interval.low) >= 0.95 > coverage(interval.low + 1)
        assert interval.high == n + 1 - interval.low
    else:
        assert coverage(1) < 0.95


def test_median_interval_covers_as_often_as_it_says_with_censored_times():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        times = rng.exponential(1.0, 10)
        interval = median_interval([t if t < 1.0 else None for t in times])
        covered += interval.low <= math.log(2) <= interval.high
    assert 0.95 <= covered / 2000 <= 0.99  # ranks 2 and 9 of 10 have 97.9 %


def test_median_interval_without_data_is_unbounded():
    assert median_interval([]) == median_interval([1.0] * 5) == Interval(-math.inf, math.inf)
    assert median_interval([None] * 6) == Interval(math.inf, math.inf)


def test_median_counts_the_censored():
    assert censored_median([10, 20, 30]) == 20
    assert censored_median([10, None, None, 30]) is None
    assert censored_median([]) is None
