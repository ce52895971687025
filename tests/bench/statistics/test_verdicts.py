import math

import numpy as np
import pytest

from headstart.bench.statistics import paired, verdicts
from headstart.bench.statistics.verdicts import Verdict, compare_family


@pytest.fixture
def no_interval(monkeypatch):
    """Verdicts do not depend on the interval; simulations need not wait for it."""
    monkeypatch.setattr(paired, "flip_interval", lambda d: paired.Interval(-math.inf, math.inf))


def simulate(rng, seeds, effects, images=1500):
    """Accuracies of a baseline and arms that share seeds, as coarse as a test split makes them."""
    common = rng.normal(95, 0.5, seeds)
    rows = {"default": common + rng.normal(0, 0.3, seeds)}
    for index, effect in enumerate(effects):
        rows[f"arm{index}"] = common + effect + rng.normal(0, 0.3, seeds)
    return {name: dict(enumerate(np.round(row * images / 100) * 100 / images)) for name, row in rows.items()}


def judge(results, margin=0.5):
    pairs = [(name, "default") for name in results if name != "default"]
    return compare_family(pairs, results, 0.05, margin)


@pytest.mark.parametrize("seeds", [4, 8, 12])
@pytest.mark.parametrize("arms", [1, 3])
def test_no_true_difference_seldom_gets_a_verdict(no_interval, seeds, arms):
    rng = np.random.default_rng(seeds * 10 + arms)
    runs = 1000
    false = sum(
        any(c.verdict in (Verdict.HELPS, Verdict.HURTS) for c in judge(simulate(rng, seeds, [0.0] * arms)))
        for _ in range(runs)
    )
    assert false / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_true_difference_is_found_as_often_as_the_design_says(no_interval):
    rng = np.random.default_rng(0)
    effect = paired.detectable_effect(0.3 * math.sqrt(2), 12, 0.05 / 2)
    found = [judge(simulate(rng, 12, [effect, 0.0]))[0].verdict for _ in range(400)]
    assert 0.7 < np.mean([v is Verdict.HELPS for v in found]) < 0.9
    assert Verdict.HURTS not in found


def test_what_helps_one_way_hurts_the_other(no_interval):
    results = simulate(np.random.default_rng(1), 10, [2.0])
    swapped = {"default": results["arm0"], "arm0": results["default"]}
    assert judge(results)[0].verdict is Verdict.HELPS
    assert judge(swapped)[0].verdict is Verdict.HURTS


def test_five_seeds_are_too_few_however_large_the_difference():
    comparison = judge(simulate(np.random.default_rng(0), 5, [20.0]))[0]
    assert comparison.verdict is Verdict.TOO_FEW
    assert "cannot reach p ≤ 0.05 at all; it takes at least 6" in comparison.sentence()
    assert "(5 seeds cannot give a 95 % interval; better in 5 of 5 seeds" in comparison.sentence()


def test_a_design_that_would_have_seen_the_margin_says_no_evidence():
    results = simulate(np.random.default_rng(2), 30, [0.0])
    comparison = judge(results, margin=1.0)[0]
    assert comparison.verdict is Verdict.NO_EVIDENCE
    assert comparison.detectable < 1.0
    assert judge(results, margin=0.01)[0].verdict is Verdict.TOO_FEW


def test_arms_that_never_differ_from_each_other_are_one_hypothesis():
    results = simulate(np.random.default_rng(4), 8, [1.0, 0.3, 0.1])
    alone = judge(results)
    twins = judge({**results, "twin": dict(results["arm0"])})
    assert [c.adjusted_p for c in twins[:3]] == [c.adjusted_p for c in alone]
    assert (twins[3].adjusted_p, twins[3].verdict) == (alone[0].adjusted_p, alone[0].verdict)
    assert {c.family for c in twins} == {3}
    assert twins[0].detectable == alone[0].detectable


def test_arms_without_a_finished_seed_each_keep_their_place_in_the_family():
    results = simulate(np.random.default_rng(4), 8, [1.0])
    assert judge({**results, "late": {}, "later": {}})[0].family == 3


def test_seeds_needed_is_the_least_number_that_detects_the_margin():
    comparison = judge(simulate(np.random.default_rng(3), 8, [0.0, 0.1]), margin=0.2)[0]
    deviation = float(np.std(comparison.differences, ddof=1))
    needed = comparison.seeds_needed
    assert paired.detectable_effect(deviation, needed, 0.025) <= 0.2
    assert paired.detectable_effect(deviation, needed - 1, 0.025) > 0.2
    assert f"about {needed} seeds would detect 0.2" in comparison.sentence()


def test_seeds_needed_beyond_reason_is_not_given():
    assert judge(simulate(np.random.default_rng(3), 8, [0.0]), margin=1e-6)[0].seeds_needed is None


def test_only_seeds_that_both_have_are_compared():
    results = {"default": {0: 90.0, 1: 91.0, 2: 92.0}, "arm": {2: 93.0, 1: 91.5, 7: 50.0}}
    comparison = judge(results)[0]
    assert comparison.seeds == (2, 1)
    assert comparison.differences == pytest.approx((1.0, 0.5))


def test_no_shared_seed_is_no_crash():
    comparison = judge({"default": {0: 90.0}, "arm": {}})[0]
    assert comparison.verdict is Verdict.TOO_FEW
    assert "no seed is finished" in comparison.sentence()


def test_arms_that_never_differ_give_no_evidence():
    same = dict.fromkeys(range(8), 95.0)
    comparison = judge({"default": same, "arm": dict(same)})[0]
    assert comparison.verdict is Verdict.NO_EVIDENCE
    assert comparison.adjusted_p == 1.0


@pytest.mark.parametrize("family", [1, 2, 5])
def test_least_seeds_is_where_the_exact_test_can_first_reach_the_level(family):
    n = verdicts.least_seeds(0.05 / family)
    assert paired.sign_flip([1.0] * n).p <= 0.05 / family < paired.sign_flip([1.0] * (n - 1)).p
