import math

import numpy as np
import pytest
from scipy import stats

from headstart.bench.statistics.over_tasks import judge_overall, over_tasks, random_effects
from headstart.bench.statistics.verdicts import Contrast, Verdict, judge_family


def test_with_equal_errors_it_is_students_t_over_tasks():
    means = [1.0, 3.0, 2.0, 5.0, 1.5, 4.0]
    found = random_effects(means, [0.1] * 6)
    theirs = stats.ttest_1samp(means, 0).confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((theirs.low, theirs.high))
    assert found.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    assert found.deviation**2 == pytest.approx(np.var(means, ddof=1) - 0.01)
    half = stats.t.ppf(0.975, 4) * math.sqrt(np.var(means, ddof=1) * (1 + 1 / 6) - 0.01)
    assert found.prediction.high == pytest.approx(np.mean(means) + half)


def test_the_factor_is_never_below_one():
    found = random_effects([2.0, 2.0, 2.0, 2.0, 2.0], [0.5] * 5)
    assert found.deviation == 0
    assert found.error == pytest.approx(0.5 / math.sqrt(5))


def test_exact_ties_do_not_break_it():
    found = random_effects([0.0, 0.0, 2.0, 1.0, 3.0], [0.0, 0.0, 0.5, 0.5, 0.5])
    assert 0 < found.mean < 2
    assert random_effects([0.0] * 5, [0.0] * 5).interval.high == pytest.approx(0, abs=1e-4)


def test_the_interval_covers_the_mean_over_tasks_and_the_prediction_a_new_one():
    rng = np.random.default_rng(0)
    runs, mean, new = 500, 0, 0
    for _ in range(runs):
        errors = rng.uniform(0.1, 1.0, 7)
        effects = rng.normal(1, 1, 8)
        found = random_effects(effects[:7] + rng.normal(0, errors), errors)
        mean += found.interval.low <= 1 <= found.interval.high
        new += found.prediction.low <= effects[7] <= found.prediction.high
    assert mean / runs >= 0.91
    assert new / runs >= 0.89


def made(effects, seeds=8, seed=0):
    rng = np.random.default_rng(seed)
    contrasts = []
    for task, effect in enumerate(effects):
        base = dict(enumerate(rng.normal(90, 0.3, seeds)))
        own = {s: v + effect + rng.normal(0, 0.3) for s, v in base.items()}
        contrasts.append(Contrast("arm", "default", own, base, task=str(task)))
    scores = [(list(c.own.values()), list(c.other.values())) for c in contrasts]
    return over_tasks(judge_family(contrasts, 0.05, 0.5), scores)


def test_one_wild_task_rules_the_mean_alone():
    (found,) = judge_overall([made([0.4, 0.5, 0.3, 0.4, 0.5, 60.0])], 0.05, 0.5)
    assert found.median < 1
    assert found.interquartile_mean < 1
    assert found.verdict is Verdict.NOT_SETTLED
    assert found.effects.mean > 5
    assert found.effects.prediction.low < 0


def test_steady_gains_help_and_fewer_than_five_tasks_have_no_verdict():
    (found,) = judge_overall([made([2.0, 2.5, 1.8, 2.2, 2.1])], 0.05, 0.5)
    assert (found.verdict, found.wins, found.tasks) == (Verdict.HELPS, 5, 5)
    assert found.improvement > 0.95
    few = made([2.0, 2.5, 1.8, 2.2])
    assert (few.effects, few.verdict, few.wins) == (None, None, 4)
    assert made([2.0]) is None
