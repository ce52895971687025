"""An arm over several tasks: random effects with a prediction interval, and summaries that are robust to outliers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from headstart.bench.statistics import paired
from headstart.bench.statistics.paired import Floats, Interval
from headstart.bench.statistics.verdicts import Comparison, Verdict, decide

LEAST_TASKS = 5
"""From this many tasks on, the mean over tasks like these is estimated."""
_UNKNOWN = Interval(-math.inf, math.inf)


@dataclass(frozen=True)
class RandomEffects:
    """The mean effect over tasks like those seen, and a prediction for a new task.

    Args:
        mean: The mean of the effects.
        interval: The interval of the mean, at 95 % (Hartung and Knapp, its factor at least 1).
        prediction: Prediction interval of the effect on a new task, at 95 %.
        deviation: Standard deviation of the true effects between tasks.
        p: Two-sided p-value that the mean is zero.
        error: Standard error of the mean.
    """

    mean: float
    interval: Interval
    prediction: Interval
    deviation: float
    p: float
    error: float


@dataclass(frozen=True)
class Overall:
    """An arm over all its tasks.

    Args:
        arm: Its label.
        against: The arm that it is compared with.
        tasks: The number of tasks.
        median: The median of the tasks' mean differences.
        interquartile_mean: Mean of the middle half of all differences.
        wins: Tasks on which the mean difference is above zero.
        margin: Smallest difference that matters.
        improvement: Chance that a run of the arm beats a run of the other on the same task, ties counted half.
        effects: The mean over tasks; None with fewer than five.
        adjusted_p: The p-value after Holm over the arms; 1 without effects.
        adjusted: The mean's interval at the level of Holm's step.
        verdict: The verdict on tasks like these; None with fewer than five.
    """

    arm: str
    against: str
    tasks: int
    median: float
    interquartile_mean: float
    wins: int
    improvement: float
    margin: float
    effects: RandomEffects | None
    adjusted_p: float = 1.0
    adjusted: Interval = _UNKNOWN
    verdict: Verdict | None = None


def random_effects(means: Sequence[float], errors: Sequence[float], level: float = 0.95) -> RandomEffects:
    """Estimate the mean of effects that differ between tasks.

    The variance between tasks is the estimate of Paule and Mandel. The interval is that of Hartung and Knapp, with t of
    one degree of freedom less than tasks, and a factor of at least 1. The prediction interval adds the variance between
    tasks, with t of one degree of freedom less.

    Args:
        means: The mean difference of each task, at least two.
        errors: Their standard errors.
        level: The level of the intervals.

    Example:
        >>> found = random_effects([1.0, 2.0, 3.0, 2.0, 2.0], [0.1] * 5)
        >>> round(found.mean, 2), round(found.interval.low, 2), round(found.prediction.low, 2)
        (2.0, 1.12, -0.44)
    """
    y, v = np.asarray(means, dtype=np.float64), np.square(np.asarray(errors, dtype=np.float64))
    k = len(y)
    between = _between(y, v)
    if between == 0 and not v.all():  # no error and no spread: these tasks say it exactly, the others nothing more
        v = np.maximum(v, 1e-12 * max(1.0, float(v.max())))
    weights = 1 / (v + between)
    mean = float(np.sum(weights * y) / weights.sum())
    factor = max(1.0, float(np.sum(weights * np.square(y - mean))) / (k - 1))
    error = math.sqrt(factor / float(weights.sum()))
    half = float(stats.t.ppf(0.5 + level / 2, k - 1))
    wide = float(stats.t.ppf(0.5 + level / 2, max(1, k - 2))) * math.sqrt(between + error**2)
    p = 2 * float(stats.t.sf(abs(mean) / error, k - 1))
    interval = Interval(mean - half * error, mean + half * error)
    return RandomEffects(mean, interval, Interval(mean - wide, mean + wide), math.sqrt(between), p, error)


def _between(y: Floats, v: Floats) -> float:
    """Find the variance between tasks at which the weighted sum of squares equals its expectation."""

    def surplus(between: float) -> float:
        weights = 1 / np.maximum(v + between, 1e-300)
        mean = np.sum(weights * y) / weights.sum()
        return float(np.sum(weights * np.square(y - mean))) - (len(y) - 1)

    spread = float(np.var(y, ddof=1))
    if spread <= 1e-24 * max(1.0, float(np.square(y).max())) or surplus(0.0) <= 0:
        return 0.0
    top = spread
    while surplus(top) > 0:
        top *= 2
    return float(optimize.brentq(surplus, 0.0, top, xtol=1e-12 * top))


def over_tasks(
    comparisons: Sequence[Comparison], scores: Sequence[tuple[Sequence[float], Sequence[float]]]
) -> Overall | None:
    """Combine an arm's comparisons on several tasks.

    Args:
        comparisons: The comparisons of one arm with one other, one per task.
        scores: The scores of the arm and of the other, task by task; more is better.

    Returns:
        The summary, not yet judged; None with fewer than two tasks that have something to compare.
    """
    found = [(c, pair) for c, pair in zip(comparisons, scores, strict=True) if c.seeds and all(map(len, pair))]
    if len(found) < 2:
        return None
    means = [c.mean for c, _ in found]
    pooled = np.concatenate([c.differences or (c.mean,) for c, _ in found])
    better = [float(np.mean((np.sign(np.subtract.outer(a, b)) + 1) / 2)) for _, (a, b) in found]
    known = [c for c, _ in found if math.isfinite(c.deviation)]
    effects = None
    if len(known) >= LEAST_TASKS:
        errors = [c.deviation / math.sqrt(len(c.seeds) if c.paired else min(c.runs, c.other_runs)) for c in known]
        effects = random_effects([c.mean for c in known], errors)
    first = found[0][0]
    return Overall(
        first.arm,
        first.against,
        len(found),
        float(np.median(means)),
        float(stats.trim_mean(pooled, 0.25)),
        sum(mean > 0 for mean in means),
        float(np.mean(better)),
        first.margin,
        effects,
    )


def judge_overall(found: Sequence[Overall], alpha: float, margin: float, gate: float = 0.0) -> list[Overall]:
    """Judge arms over tasks, as one family.

    Args:
        found: From :func:`over_tasks`, one for each arm.
        alpha: Level of the family.
        margin: Smallest difference that matters.
        gate: The p-value of the question that had to be answered first.
    """
    judged = [each for each in found if each.effects is not None]
    p_values = [each.effects.p for each in judged if each.effects]
    adjusted = dict(zip((each.arm for each in judged), paired.holm(p_values), strict=True))
    stopped = sum(p <= alpha for p in adjusted.values())
    order = sorted(range(len(judged)), key=lambda i: p_values[i])
    level = {
        judged[place].arm: alpha / (len(judged) - min(rank, stopped, len(judged) - 1))
        for rank, place in enumerate(order)
    }
    return [
        _judged(each, max(gate, adjusted.get(each.arm, 1.0)), level.get(each.arm, alpha), alpha, margin)
        for each in found
    ]


def _judged(each: Overall, p: float, level: float, alpha: float, margin: float) -> Overall:
    effects = each.effects
    if effects is None:
        return each
    half = float(stats.t.ppf(1 - level / 2, each.tasks - 1)) * effects.error
    low, high = effects.mean - half, effects.mean + half
    if p > alpha:
        low, high = min(low, 0.0), max(high, 0.0)
    verdict = decide(effects.mean, p, Interval(low, high), False, alpha, margin)
    return replace(each, adjusted_p=p, adjusted=Interval(low, high), verdict=verdict)
