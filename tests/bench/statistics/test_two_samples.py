import math

import numpy as np
import pytest
from scipy import stats

from headstart.bench.statistics.two_samples import unpaired_interval, unpaired_test


@pytest.mark.parametrize(("m", "n"), [(4, 4), (5, 7), (8, 8)])
def test_the_test_is_scipys_exact_permutation_test(m, n):
    rng = np.random.default_rng(m)
    for shift in (0.0, 1.0):
        x, y = rng.normal(shift, 1, m), rng.normal(0, 1, n)
        theirs = stats.permutation_test((x, y), lambda a, b: np.mean(a) - np.mean(b), n_resamples=np.inf)
        assert unpaired_test(x, y).p == pytest.approx(min(1.0, theirs.pvalue), abs=1e-12)


@pytest.mark.parametrize(("m", "n"), [(6, 6), (8, 5), (12, 10)])
def test_the_interval_holds_what_the_test_does_not_reject(m, n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(0.5, 1, m), rng.exponential(1, n)
    found = unpaired_interval(x, y)
    step = 1e-6
    for end, inward in ((found.low, step), (found.high, -step)):
        assert unpaired_test(x - (end + inward), y).p > 0.05
        assert unpaired_test(x - (end - inward), y).p <= 0.05
    assert (unpaired_test(x, y).p <= 0.05) == (found.low > 0 or found.high < 0)


def test_too_few_runs_have_no_range_and_equal_ones_no_difference():
    assert not unpaired_interval([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]).bounded
    assert unpaired_interval([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]).bounded  # 2 / 70 is below 0.05, 2 / 20 is not
    assert unpaired_test([1.0] * 8, [1.0] * 8).p == unpaired_test([], [1.0]).p == 1.0
    assert unpaired_interval([], [1.0]).high == math.inf


def test_from_thirty_runs_on_it_is_welchs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.4, 1, 30), rng.normal(0, 2, 33)
    theirs = stats.ttest_ind(x, y, equal_var=False)
    assert unpaired_test(x, y).p == pytest.approx(theirs.pvalue)
    assert unpaired_interval(x, y).low == pytest.approx(theirs.confidence_interval().low)
