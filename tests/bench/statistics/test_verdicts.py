import math

import numpy as np
import pytest

from headstart.bench.statistics import paired, power
from headstart.bench.statistics.verdicts import Contrast, Verdict, compare_family, judge_family


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
def test_no_true_difference_seldom_gets_a_verdict(seeds, arms):
    rng = np.random.default_rng(seeds * 10 + arms)
    runs = 400
    false = sum(
        any(c.verdict in (Verdict.HELPS, Verdict.HURTS) for c in judge(simulate(rng, seeds, [0.0] * arms)))
        for _ in range(runs)
    )
    assert false / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_true_difference_is_found_as_often_as_the_design_says():
    rng = np.random.default_rng(0)
    effect = power.detectable_effect(0.3 * math.sqrt(2), 12, 0.05 / 2)
    found = [judge(simulate(rng, 12, [effect, 0.0]))[0].verdict for _ in range(400)]
    assert 0.7 < np.mean([v is Verdict.HELPS for v in found]) < 0.9
    assert Verdict.HURTS not in found


def test_what_helps_one_way_hurts_the_other():
    results = simulate(np.random.default_rng(1), 10, [2.0])
    swapped = {"default": results["arm0"], "arm0": results["default"]}
    assert judge(results)[0].verdict is Verdict.HELPS
    assert judge(swapped)[0].verdict is Verdict.HURTS


def test_five_seeds_are_too_few_however_large_the_difference():
    comparison = judge(simulate(np.random.default_rng(0), 5, [20.0]))[0]
    assert comparison.verdict is Verdict.NOT_SETTLED
    assert (comparison.least_seeds, comparison.interval.bounded, comparison.adjusted.bounded) == (6, False, False)


def test_a_range_within_the_margin_is_no_clear_difference():
    results = simulate(np.random.default_rng(2), 30, [0.0])
    comparison = judge(results, margin=1.0)[0]
    assert comparison.verdict is Verdict.NO_CLEAR_DIFFERENCE
    assert judge(results, margin=0.01)[0].verdict is Verdict.NOT_SETTLED


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


def test_seeds_needed_beyond_reason_is_not_given():
    assert judge(simulate(np.random.default_rng(3), 8, [0.0]), margin=1e-6)[0].seeds_needed is None


def test_only_seeds_that_both_have_are_compared():
    results = {"default": {0: 90.0, 1: 91.0, 2: 92.0}, "arm": {2: 93.0, 1: 91.5, 7: 50.0}}
    comparison = judge(results)[0]
    assert comparison.seeds == (2, 1)
    assert comparison.differences == pytest.approx((1.0, 0.5))


def test_no_shared_seed_is_no_crash():
    comparison = judge({"default": {0: 90.0}, "arm": {}})[0]
    assert comparison.verdict is Verdict.NOT_SETTLED


def test_arms_that_never_differ_have_no_clear_difference():
    same = dict.fromkeys(range(8), 95.0)
    comparison = judge({"default": same, "arm": dict(same)})[0]
    assert comparison.verdict is Verdict.NO_CLEAR_DIFFERENCE
    assert comparison.adjusted_p == 1.0


@pytest.mark.parametrize("family", [1, 2, 5])
def test_least_seeds_is_where_the_exact_test_can_first_reach_the_level(family):
    n = power.least_seeds(0.05 / family)
    assert paired.sign_flip([1.0] * n).p <= 0.05 / family < paired.sign_flip([1.0] * (n - 1)).p


@pytest.mark.parametrize("seeds", [7, 8, 10])
def test_adjusted_ends_agree_with_verdict_and_p(seeds):
    rng = np.random.default_rng(seeds)
    seen = set()
    for _ in range(60):
        for c in judge(simulate(rng, seeds, rng.choice([0.0, 0.2, 0.5, 2.0], 4 if seeds > 7 else 2)), margin=0.4):
            outside = c.adjusted.low > 0 or c.adjusted.high < 0
            assert outside == (c.adjusted_p <= 0.05) == (c.verdict in (Verdict.HELPS, Verdict.HURTS))
            within = c.adjusted.low >= -0.4 and c.adjusted.high <= 0.4
            assert (c.verdict is Verdict.NO_CLEAR_DIFFERENCE) == (within and not outside)
            assert c.adjusted.low <= c.interval.low
            assert c.interval.high <= c.adjusted.high
            seen.add(c.verdict)
    assert len(seen) > 1


def test_a_declared_question_comes_first_and_the_others_only_after_it():
    scores = {seed: 90.0 + seed / 10 for seed in range(8)}
    clear = Contrast("clear", "default", {s: v + 2 + s / 50 for s, v in scores.items()}, scores)
    (open_gate,) = judge_family([clear], 0.05, 0.5, gate=0.01)
    (closed,) = judge_family([clear], 0.05, 0.5, gate=0.3)
    assert (open_gate.verdict, open_gate.adjusted_p) == (Verdict.HELPS, 0.01)
    assert (closed.verdict, closed.adjusted_p, closed.adjusted.low) == (Verdict.NOT_SETTLED, 0.3, 0.0)


def test_a_collapsed_run_is_told_apart_and_does_not_hide_the_gain():
    rng = np.random.default_rng(0)
    base = dict(enumerate(90 + rng.normal(0, 0.3, 8)))
    arm = {s: v + 2 + rng.normal(0, 0.3) for s, v in base.items()} | {3: 10.0}
    (c,) = compare_family([("arm", "default")], {"default": base, "arm": arm}, 0.05, 0.5, failed={"arm": {3}})
    assert (c.verdict, c.collapsed, c.runs, c.set_aside, len(c.seeds), c.wins) == (Verdict.HELPS, 1, 8, True, 8, 7)
    assert c.mean == pytest.approx(np.mean([arm[s] - base[s] for s in base if s != 3]))


@pytest.mark.parametrize(("lost", "seeds"), [(4, 8), (8, 20)])
def test_an_arm_that_often_collapses_is_judged_by_all_its_runs(lost, seeds):
    base = {s: 90.0 + s / 10 for s in range(seeds)}
    arm = {s: v + 2 + s / 50 for s, v in base.items()} | dict.fromkeys(range(lost), 10.0)
    (c,) = compare_family(
        [("arm", "default")], {"default": base, "arm": arm}, 0.05, 0.5, failed={"arm": set(range(lost))}
    )
    assert not c.set_aside
    assert c.mean < -20
    assert c.verdict is not Verdict.HELPS
