import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from headstart.bench.statistics import paired as s

# Accuracies on 1,500 images: coarse, with ties and zeros, as real differences are.
accuracies = st.lists(st.integers(-30, 30).map(lambda k: k * 100 / 1500), min_size=1, max_size=9)


def naive_sign_flip(differences):
    observed = abs(sum(differences))
    sums = [
        abs(sum(sign * d for sign, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    return sum(total >= observed - 1e-9 for total in sums) / len(sums)


@given(accuracies)
@settings(deadline=None, max_examples=150)
def test_sign_flip_equals_counting_every_pattern(differences):
    assert s.sign_flip(differences).p == pytest.approx(naive_sign_flip(differences), abs=1e-12)


def test_sign_flip_equals_scipys_exact_permutation_test():
    for seed in range(5):
        d = np.random.default_rng(seed).normal(0.3, 1, 9)
        theirs = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert s.sign_flip(d).p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_sign_flip_beyond_exact_counting_is_close_to_it():
    d = np.random.default_rng(3).normal(0.4, 1, 21)
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums - value, sums + value])
    exact = np.mean(np.abs(sums) >= abs(d.sum()) - 1e-9)
    found = s.sign_flip(d)
    assert not found.exact
    assert abs(found.p - exact) < 4 * math.sqrt(exact * (1 - exact) / 100_000) + 2e-5
    assert found == s.sign_flip(d)


@pytest.mark.parametrize("n", [21, 24, 500])
def test_random_signs_are_fair_and_independent(n):
    values = np.random.default_rng(n).exponential(1.0, n)
    sums = s._random_flips(values, np.random.default_rng(0))
    deviation = math.sqrt(np.square(values).sum())
    assert abs(sums.mean()) < 4 * deviation / math.sqrt(len(sums))
    assert sums.std() == pytest.approx(deviation, rel=0.01)
    # Each value's own sign: the sums with it outweighing all others are as often above zero as below.
    for index in (0, 7, 8, n - 1):
        heavy = values.copy()
        heavy[index] = 10 * values.sum()
        above = np.mean(s._random_flips(heavy, np.random.default_rng(1)) > 0)
        assert above == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(100_000))


def test_sign_flip_with_random_patterns_keeps_its_level():
    rng = np.random.default_rng(5)
    found = [s.sign_flip(rng.normal(0, 1, 30)).p for _ in range(400)]
    assert np.mean([p <= 0.05 for p in found]) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 400))
    assert np.mean(found) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 400))


def test_least_p_is_reached_when_all_signs_agree_and_drops_zeros():
    assert s.sign_flip([1, 2, 3, 4]) == s.Test(0.125, 0.125, True)
    assert s.sign_flip([1, 2, 0, 0]).least == 0.5
    assert s.sign_flip([0.0, 0.0]) == s.Test(1.0, 1.0, True)
    assert s.sign_flip([]) == s.Test(1.0, 1.0, True)


def test_paired_t_equals_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7))
    assert s.paired_t(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)


@pytest.mark.parametrize("values", [[], [1.0], [0.5, 0.5, 0.5]])
def test_paired_t_is_undefined_without_spread(values):
    assert math.isnan(s.paired_t(values))


def test_paired_t_of_no_difference_is_one():
    assert s.paired_t([0.0, 0.0, 0.0]) == 1.0


def end_by_bisection(d, outside, inside):
    """Where the sign-flip test stops rejecting what is left of differences once a value is taken off."""
    while abs(inside - outside) > 1e-9:
        middle = (inside + outside) / 2
        if s.sign_flip(d - middle).p <= 0.05:
            outside = middle
        else:
            inside = middle
    return inside


@pytest.mark.parametrize("n", [6, 7, 8, 11, 15, 21, 24, 29])
def test_the_interval_holds_what_the_sign_flip_test_does_not_reject(n):
    rng = np.random.default_rng(n)
    for d in (rng.normal(0.3, 1, n), rng.exponential(1, n) - 0.2, np.round(rng.normal(0.1, 1, n), 1) + 0.05):
        interval = s.flip_interval(d)
        assert interval.low == pytest.approx(end_by_bisection(d, d.min() - 1, d.mean()), abs=1e-7)
        assert interval.high == pytest.approx(end_by_bisection(d, d.max() + 1, d.mean()), abs=1e-7)


@given(st.one_of(accuracies, st.lists(st.integers(-30, 60).map(lambda k: k * 100 / 1500), min_size=21, max_size=29)))
@settings(deadline=None, max_examples=150)
def test_interval_and_test_agree_on_zero(differences):
    interval = s.flip_interval(differences)
    assert (s.sign_flip(differences).p <= 0.05) == (interval.low > 0 or interval.high < 0)


@given(accuracies)
@settings(deadline=None, max_examples=50)
def test_the_interval_holds_the_mean_and_is_bounded_from_six_differences_on(values):
    interval = s.flip_interval(values)
    assert interval.low - 1e-9 <= np.mean(values) <= interval.high + 1e-9
    assert interval.bounded == (len(values) >= 6)


@pytest.mark.parametrize(("n", "runs"), [(6, 2000), (8, 2000), (12, 1000), (20, 60), (25, 100), (30, 500)])
def test_the_interval_covers_the_mean_as_often_as_it_says(n, runs):
    rng = np.random.default_rng(n)
    intervals = [s.flip_interval(rng.normal(1, 1, n)) for _ in range(runs)]
    covered = np.mean([i.low <= 1 <= i.high for i in intervals])
    assert covered == pytest.approx(0.955, abs=0.015 + 2.5 * math.sqrt(0.05 * 0.95 / runs))


def test_six_differences_give_the_range_and_a_lower_level_needs_fewer():
    d = [0.3, -0.1, 0.8, 0.2, 0.5, 0.4]
    assert s.flip_interval(d) == s.Interval(-0.1, 0.8)
    assert not s.flip_interval(d[:5]).bounded
    assert s.flip_interval(d[:3], level=0.75) == s.Interval(-0.1, 0.8)
    assert not s.flip_interval([]).bounded


def test_the_interval_is_students_from_thirty_differences_on():
    d = np.random.default_rng(1).normal(0.2, 1, 30)
    theirs = stats.ttest_1samp(d, 0).confidence_interval()
    assert s.flip_interval(d) == s.Interval(pytest.approx(theirs.low), pytest.approx(theirs.high))


@pytest.mark.parametrize("values", [[0.2] * 6, [0.0] * 8, [-1.5] * 21, [0.1] * 40])
def test_the_interval_of_equal_differences_is_a_point(values):
    assert s.flip_interval(values) == s.Interval(values[0], values[0])


def test_holm_equals_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(size=5) ** 2
        order = np.argsort(p)
        expected = np.empty(5)
        for rank, index in enumerate(order):
            expected[index] = min(1, max((5 - j) * p[order[j]] for j in range(rank + 1)))
        assert s.holm(p) == pytest.approx(expected)


def test_holm_of_nothing():
    assert s.holm([]) == []


def test_holm_counts_equal_hypotheses_once():
    p = [0.03, 0.001, 0.03, 0.2]
    assert s.holm(p, ["a", "b", "a", "c"]) == pytest.approx([0.06, 0.003, 0.06, 0.2])
    assert s.holm(p, "abcd") == s.holm(p)


@given(st.lists(st.integers(-30, 60).map(lambda k: k * 100 / 1500), min_size=30, max_size=34))
@settings(deadline=None, max_examples=50)
def test_from_thirty_differences_on_the_test_is_students_as_the_interval_is(differences):
    found, interval = s.paired_test(differences), s.flip_interval(differences)
    if np.ptp(differences):
        assert found.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert (found.p <= 0.05) == (interval.low > 0 or interval.high < 0)


def test_area_ignores_how_fine_a_straight_curve_is_sampled():
    assert s.area_under_curve([0, 10], [0, 100]) == s.area_under_curve([0, 2, 7, 10], [0, 20, 70, 100]) == 50


def test_an_estimate_is_the_mean_with_its_interval():
    d = list(np.random.default_rng(2).normal(0.2, 1, 9))
    assert s.estimate(d) == s.Estimate(float(np.mean(d)), s.flip_interval(d))
    assert s.estimate([]) is None


def test_mean_band_equals_scipys_t_interval():
    values = np.random.default_rng(0).normal(size=(6, 4))
    mean, low, high = s.mean_band(values)
    expected = stats.t.interval(0.95, 5, loc=values.mean(0), scale=stats.sem(values, axis=0))
    assert np.allclose([low, high], expected)
    assert np.allclose(mean, values.mean(0))
