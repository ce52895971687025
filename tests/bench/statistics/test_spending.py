import numpy as np
import pytest

from headstart.bench.statistics.spending import plan_levels, spent


def test_levels_are_those_of_the_textbook():
    """Four equal looks, O'Brien-Fleming-type spending: bounds 4.333, 2.963, 2.359 and 2.014 (Lan and DeMets)."""
    from scipy import stats

    bounds = stats.norm.isf(np.array(plan_levels(0.05, [0.25, 0.5, 0.75, 1.0])) / 2)
    assert bounds == pytest.approx([4.333, 2.963, 2.359, 2.014], abs=0.01)


@pytest.mark.parametrize("times", [[1.0], [0.5, 1.0], [0.56, 0.7, 0.85, 1.0]])
def test_growing_sums_cross_their_bounds_as_often_as_the_level_says(times):
    rng = np.random.default_rng(1)
    steps = np.diff([0, *times])
    sums = np.cumsum(rng.normal(0, np.sqrt(steps), (200_000, len(times))), axis=1) / np.sqrt(times)
    from scipy import stats

    bounds = stats.norm.isf(np.array(plan_levels(0.05, times)) / 2)
    assert np.mean((np.abs(sums) > bounds).any(axis=1)) == pytest.approx(0.05, abs=0.0015)


def test_spending_rises_to_the_whole_level():
    shares = [spent(0.05, time) for time in (0.1, 0.3, 0.6, 0.9, 1.0)]
    assert shares == sorted(shares)
    assert shares[-1] == 0.05
