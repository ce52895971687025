import numpy as np
import pytest
from scipy import stats

from headstart.bench.statistics.collapses import fail_alike, find_collapsed, largest_share

LAWS = {
    "normal": lambda rng, n: rng.normal(0, 1, n),
    "t3": lambda rng, n: rng.standard_t(3, n),
    "exponential": lambda rng, n: rng.exponential(1, n),
    "skewed down": lambda rng, n: -rng.exponential(1, n),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_collapses_are_counted_right(law, share):
    rng = np.random.default_rng(0)
    right = 0
    for _ in range(200):
        scores, truth = {}, {}
        for arm in "abcde":
            values, lost = 90 + LAWS[law](rng, 8), rng.random(8) < share
            scores[arm] = dict(enumerate(np.where(lost, 10 + rng.normal(0, 1, 8), values)))
            truth[arm] = frozenset(np.flatnonzero(lost).tolist())
        right += find_collapsed(scores) == truth
    assert right >= {"t3": 0.95, "skewed down": 0.96}.get(law, 0.98) * 200


def test_an_arm_that_spreads_more_than_the_others_has_not_collapsed():
    rng = np.random.default_rng(1)
    scores = {arm: dict(enumerate(rng.normal(90, 0.1, 8))) for arm in "abc"}
    scores["wild"] = dict(enumerate(rng.normal(80, 10, 8)))
    assert find_collapsed(scores)["wild"] == frozenset()


def test_what_diverged_or_guesses_has_collapsed_whatever_the_others_do():
    scores = {"a": {0: 90.0, 1: 10.5, 2: float("nan")}, "b": {0: 10.0, 1: 10.0, 2: 10.0}}
    found = find_collapsed(scores, guess=10.0, diverged={"a": [0]})
    assert found == {"a": {0, 1, 2}, "b": {0, 1, 2}}


def test_an_arm_that_hardly_learns_has_not_collapsed_where_its_runs_come_near_guessing():
    slow = {
        "a": dict(enumerate([1.7, 0.9, 1.1, 1.1, 0.9, 1.1, 1.2, 0.55])),
        "b": dict(enumerate([1.9] * 4 + [2.1] * 4)),
    }
    assert find_collapsed(slow, guess=0.5) == {"a": set(), "b": set()}
    assert find_collapsed({"a": {0: 90.0, 1: 90.5, 2: 91.0, 3: 10.9}}, guess=10.0)["a"] == {3}


def test_scores_that_all_agree_but_one():
    scores = {"a": dict.fromkeys(range(8), 90.0), "b": dict.fromkeys(range(7), 90.0) | {7: 10.0}}
    assert find_collapsed(scores) == {"a": set(), "b": {7}}
    assert find_collapsed({"a": scores["a"], "b": scores["a"] | {7: 89.0}})["b"] == set()


@pytest.mark.parametrize(("failed", "runs"), [(0, 8), (1, 8), (3, 20)])
def test_the_largest_share_is_where_so_few_failures_would_be_rare(failed, runs):
    assert stats.binom.cdf(failed, runs, largest_share(failed, runs)) == pytest.approx(0.05)
    assert largest_share(runs, runs) == 1.0


def test_failing_alike_is_mcnemars_and_fishers_test():
    one, none = [True] * 6 + [False] * 2, [False] * 8
    assert not fail_alike(one, none, True, 0.05)  # 2 / 2**6
    assert fail_alike([*one[1:], False], none, True, 0.05)
    assert fail_alike(one, one, True, 0.05)
    assert not fail_alike(one, none, False, 0.05)
