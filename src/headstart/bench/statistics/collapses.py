"""Runs that collapsed: far outside their arm, at guessing level, or diverged. A mean does not show this outcome."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from headstart.bench.statistics.paired import Floats

_FAR = 15.0  # standard deviations below the arm's better half: no law with an own name goes there by chance
_CLEAR = 5.0  # for a run at guessing so many are enough
_OWN = 6.0  # an arm whose spread is so many times that of the others is measured by its own
_FINE = 1e-3  # least standard deviation, as a share of the score: scores that all agree have none of their own
_GUESSING = 1.1  # times the accuracy of guessing: no more than that is guessing

Seed = Any
Scores = Mapping[str, Mapping[Seed, float]]


def find_collapsed(
    scores: Scores, guess: float | None = None, diverged: Mapping[str, Collection[Seed]] | None = None
) -> dict[str, frozenset[Seed]]:
    """Find the collapsed runs among all arms of one task.

    A run has collapsed if its training diverged, if its score is not finite, if it is at guessing level and clearly
    below its arm, or if it is more than 15 standard deviations below the median of its arm's better half. The standard
    deviation is estimated from the median distance of all runs to the median of their arm; for an arm with a much
    larger spread, from its own better half.

    Args:
        scores: By arm and seed; more is better.
        guess: The score of guessing, if it is known.
        diverged: Seeds that diverged, by arm.

    Returns:
        The collapsed seeds of every arm.

    Example:
        >>> good = {seed: 90 + seed / 10 for seed in range(8)}
        >>> find_collapsed({"default": good, "new": {**good, 3: 10.0}})["new"]
        frozenset({3})
    """
    finite = {arm: np.array([v for v in by.values() if math.isfinite(v)]) for arm, by in scores.items()}
    common = _common_deviation(list(finite.values()))
    found = {}
    for arm, by in scores.items():
        least = _least(finite[arm], common, guess)
        lost = {seed for seed, score in by.items() if not math.isfinite(score) or score <= least}
        found[arm] = frozenset(lost | set((diverged or {}).get(arm, ())))
    return found


def largest_share(failed: int, runs: int, level: float = 0.95) -> float:
    """Return an upper limit for the long-run share of runs that fail (Clopper and Pearson).

    Args:
        failed: The number of collapsed runs.
        runs: The number of all runs.
        level: The level of the one-sided limit.

    Example:
        >>> round(largest_share(0, 8), 3)
        0.312
    """
    return 1.0 if failed >= runs else float(stats.beta.ppf(level, failed + 1, runs - failed))


def fail_alike(one: Sequence[bool], other: Sequence[bool], paired: bool, alpha: float) -> bool:
    """Tell whether chance may explain that one arm fails more often than the other.

    Args:
        one: Whether each run of an arm failed.
        other: The same for the other arm; if paired, the same seeds in the same order.
        paired: Whether the runs are paired.
        alpha: Level of the exact test: McNemar's for pairs, else Fisher's.

    Example:
        >>> fail_alike([True] * 3 + [False] * 5, [False] * 8, True, 0.05)
        True
        >>> fail_alike([True] * 8, [False] * 8, True, 0.05)
        False
    """
    if paired:
        pairs = list(zip(one, other, strict=True))
        only, neither = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
        if not only + neither:
            return True
        return float(stats.binomtest(only, only + neither, 0.5).pvalue) > alpha
    table = [[sum(one), len(one) - sum(one)], [sum(other), len(other) - sum(other)]]
    return float(stats.fisher_exact(table).pvalue) > alpha


def _common_deviation(arms: Sequence[Floats]) -> float:
    """Estimate the standard deviation of a run over all arms, from the median distance to the arm's median."""
    distances = [np.abs(values - np.median(values)) for values in arms if len(values) > 2]
    return float(np.median(np.concatenate(distances))) / 0.6745 if distances else math.inf


def _least(values: Floats, common: float, guess: float | None) -> float:
    """Return the score at or below which a run of an arm has collapsed."""
    floor = -math.inf if guess is None else _GUESSING * guess
    if len(values) < 3:
        return floor
    better = np.sort(values)[len(values) // 2 :]
    centre = float(np.median(better))
    own = float(np.quantile(better, 0.7) - better[0])  # about a deviation, and blind to one that is very good
    deviation = max(own if own > _OWN * common else common, _FINE * abs(centre))
    if floor > -math.inf and floor < centre:  # the arm learns: what guesses is far from it, or else it hardly learns
        floor = min(floor, centre - _CLEAR * max(own, deviation))
    return max(floor, centre - _FAR * deviation)
