"""Verdicts from the runs of two arms, by rules that are fixed before any result is seen."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from headstart.bench.statistics import paired, power, two_samples
from headstart.bench.statistics.collapses import fail_alike, largest_share
from headstart.bench.statistics.metric import ACCURACY, Metric
from headstart.bench.statistics.paired import Interval, Test

Seed = Any
LEVEL = 0.95
"""The level of the unadjusted intervals."""


class Verdict(str, Enum):
    """The four answers."""

    HELPS = "helps"
    HURTS = "hurts"
    NO_CLEAR_DIFFERENCE = "no clear difference"
    NOT_SETTLED = "not settled"


@dataclass(frozen=True)
class Contrast:
    """Two arms to compare on one task.

    Args:
        arm: The arm's label.
        against: The label of the arm that it is compared with.
        own: The arm's scores by seed; more is better.
        other: The scores of the other arm.
        failed: Seeds in which the arm collapsed.
        other_failed: Seeds in which the other collapsed.
        task: The task, if there are several.
    """

    arm: str
    against: str
    own: Mapping[Seed, float]
    other: Mapping[Seed, float]
    failed: Collection[Seed] = frozenset()
    other_failed: Collection[Seed] = frozenset()
    task: str = ""


@dataclass(frozen=True)
class Comparison:
    """An arm against another, judged.

    Args:
        arm: The arm's label.
        against: The label of the arm that it is compared with.
        seeds: Seeds that both arms have finished; the arm's own seeds if they share none.
        differences: Arm minus other with the same seed, in the order of ``seeds``; empty if they share none.
        mean: The mean of the differences; without shared seeds, the difference of the means. Collapsed runs count count
            unless they are ``set_aside``.
        interval: The interval of the mean, at 95 %, from the same test, not adjusted; without ends from too few seeds.
        adjusted: The interval at the level of Holm's step; it excludes zero if the verdict is "helps" or "hurts".
        test: The test, not adjusted.
        adjusted_p: The p-value after Holm over the family.
        family: Number of different comparisons in the family.
        verdict: The answer.
        alpha: Level of the family.
        margin: Smallest difference that matters.
        deviation: Standard deviation of the values that ``mean`` averages; used for power.
        task: The task, if there are several.
        paired: Whether the arms share seeds.
        collapsed: Runs of the arm that collapsed.
        other_collapsed: Runs of the other that collapsed.
        set_aside: Whether collapsed runs are counted separately, and left out of mean, interval and test.
        runs: Runs of the arm.
        other_runs: Runs of the other.
        metric: What the score is.
        exploratory: Whether no verdict is given.
        behind: Whether it would have a verdict, but has none because the declared question has none.
    """

    arm: str
    against: str
    seeds: tuple[Seed, ...]
    differences: tuple[float, ...]
    mean: float
    interval: Interval
    adjusted: Interval
    test: Test
    adjusted_p: float
    family: int
    verdict: Verdict
    alpha: float
    margin: float
    deviation: float
    task: str = ""
    paired: bool = True
    collapsed: int = 0
    other_collapsed: int = 0
    set_aside: bool = False
    runs: int = 0
    other_runs: int = 0
    metric: Metric = ACCURACY
    exploratory: bool = False
    behind: bool = False

    @property
    def word(self) -> str:
        """The verdict in words, or that there is none."""
        return "exploratory" if self.exploratory else self.verdict.value

    @property
    def wins(self) -> int | None:
        """Seeds in which the arm is better; None if the arms share none."""
        return sum(d > 0 for d in self.differences) if self.paired else None

    @property
    def losses(self) -> int | None:
        """Seeds in which the arm is worse; None if the arms share none."""
        return sum(d < 0 for d in self.differences) if self.paired else None

    @property
    def identical(self) -> bool:
        """Whether the arm has the same scores as the other, seed by seed."""
        return bool(self.differences) and not any(self.differences)

    @property
    def detectable(self) -> float:
        """Smallest difference that this design finds with 80 % power, at the family's strictest level."""
        return power.detectable_effect(self.deviation, len(self.seeds), self.alpha / self.family)

    @property
    def seeds_needed(self) -> int | None:
        """Seeds with which the margin would be found, at the observed spread; None if over 10,000."""
        return power.seeds_for(self.margin, self.deviation, self.alpha / self.family)

    @property
    def least_seeds(self) -> int:
        """The smallest number of seeds with which any difference can get a verdict in this family."""
        return power.least_seeds(self.alpha / self.family)

    @property
    def could_fail(self) -> float:
        """Largest share of the arm's runs that could collapse, in the long run (one-sided, 95 %)."""
        return largest_share(self.collapsed, self.runs)


@dataclass(frozen=True)
class _Measured:
    """A contrast with its test, before the family is judged."""

    contrast: Contrast
    seeds: tuple[Seed, ...]
    differences: tuple[float, ...]
    own: tuple[float, ...]
    other: tuple[float, ...]
    set_aside: bool
    test: Test

    @property
    def in_pairs(self) -> bool:
        return bool(self.differences)

    @property
    def kept(self) -> tuple[float, ...]:
        """The differences that count for mean, interval and test."""
        return tuple(a - b for a, b in zip(self.own, self.other, strict=True))

    @property
    def hypothesis(self) -> Hashable:
        """The hypothesis; equal ones count once in a family."""
        if self.in_pairs:
            return (self.contrast.task, self.seeds, self.differences)
        if self.own and self.other:
            return (self.contrast.task, self.own, self.other)
        return (self.contrast.task, self.contrast.arm, self.contrast.against)

    def interval(self, level: float) -> Interval:
        if self.in_pairs:
            return paired.flip_interval(self.kept, level)
        return two_samples.unpaired_interval(self.own, self.other, level)

    def mean(self) -> float:
        if self.in_pairs:
            return float(np.mean(self.kept)) if self.own else 0.0
        return float(np.mean(self.own) - np.mean(self.other)) if self.own and self.other else 0.0

    def deviation(self) -> float:
        samples = [self.kept] if self.in_pairs else [self.own, self.other]
        if any(len(sample) < 2 for sample in samples):
            return math.inf
        return math.sqrt(sum(float(np.var(sample, ddof=1)) for sample in samples))


def compare_family(
    pairs: Sequence[tuple[str, str]],
    results: Mapping[str, Mapping[int, float]],
    alpha: float,
    margin: float,
    metric: Metric = ACCURACY,
    failed: Mapping[str, Collection[int]] | None = None,
    gate: float = 0.0,
) -> list[Comparison]:
    """Judge all comparisons that answer one question on one task.

    Args:
        pairs: ``(arm, against)`` labels.
        results: Scores by label and seed; more is better.
        alpha: Level of the whole family.
        margin: Smallest difference that matters.
        metric: What the score is.
        failed: Seeds that collapsed, by label.
        gate: As for :func:`judge_family`.

    Returns:
        One comparison per pair, on their common seeds. Pairs with the same differences are one hypothesis.
    """
    lost = failed or {}
    contrasts = [
        Contrast(arm, other, results.get(arm, {}), results.get(other, {}), lost.get(arm, ()), lost.get(other, ()))
        for arm, other in pairs
    ]
    return judge_family(contrasts, alpha, margin, metric, gate)


def judge_family(
    contrasts: Sequence[Contrast],
    alpha: float,
    margin: float,
    metric: Metric = ACCURACY,
    gate: float = 0.0,
    unpaired: bool = False,
) -> list[Comparison]:
    """Judge contrasts that answer one question together.

    Args:
        contrasts: Each with its scores.
        alpha: Level of the whole family.
        margin: Smallest difference that matters.
        metric: What the score is.
        gate: The p-value of the declared question: none of these becomes smaller.
        unpaired: Compare arms without shared seeds as independent samples; otherwise they are not compared.

    Returns:
        One comparison for each contrast.
    """
    measured = [_measure(contrast, alpha, unpaired) for contrast in contrasts]
    hypotheses = [each.hypothesis for each in measured]
    own = paired.holm([each.test.p for each in measured], hypotheses)
    adjusted = [max(gate, p) for p in own]
    levels = _levels([each.test.p for each in measured], adjusted, hypotheses, alpha)
    family = max(1, len(set(hypotheses)))
    judged = [_judge(*each, family, alpha, margin, metric) for each in zip(measured, adjusted, levels, strict=True)]
    return [replace(c, behind=p <= alpha < c.adjusted_p) for c, p in zip(judged, own, strict=True)]


def _levels(
    p_values: Sequence[float], adjusted: Sequence[float], hypotheses: Sequence[Hashable], alpha: float
) -> list[float]:
    """Return the level of each test at its step of Holm's procedure.

    Tests that are not rejected share the level of the step at which it stopped.
    """
    own = dict(zip(hypotheses, zip(p_values, adjusted, strict=True), strict=True))
    order = sorted(own, key=lambda name: own[name][0])
    stopped = sum(own[name][1] <= alpha for name in order)
    steps = {name: len(order) - min(rank, stopped) for rank, name in enumerate(order)}
    return [alpha / max(1, steps[name]) for name in hypotheses]


def _measure(contrast: Contrast, alpha: float, unpaired: bool) -> _Measured:
    own, other = contrast.own, contrast.other
    shared = tuple(seed for seed in own if seed in other)
    if shared or not unpaired:
        lost = [seed in contrast.failed for seed in shared], [seed in contrast.other_failed for seed in shared]
        aside = _apart(*lost, True, alpha)
        kept = [s for s, a, b in zip(shared, *lost, strict=True) if not (aside and (a or b))]
        first, second = tuple(own[s] for s in kept), tuple(other[s] for s in kept)
        differences = tuple(own[s] - other[s] for s in shared)
        test = paired.paired_test([a - b for a, b in zip(first, second, strict=True)])
        return _Measured(contrast, shared, differences, first, second, aside, test)
    lost = [seed in contrast.failed for seed in own], [seed in contrast.other_failed for seed in other]
    aside = _apart(*lost, False, alpha)
    first = tuple(own[s] for s in own if not (aside and s in contrast.failed))
    second = tuple(other[s] for s in other if not (aside and s in contrast.other_failed))
    test = two_samples.unpaired_test(first, second)
    return _Measured(contrast, tuple(own), (), first, second, aside, test)


def _apart(own: Sequence[bool], other: Sequence[bool], pairs: bool, alpha: float) -> bool:
    """Tell whether collapsed runs are exceptions, which are counted separately.

    They are not if half of an arm's runs collapsed, or if one arm collapses more often than chance explains: then this
    is typical of the arm, and all its runs count.
    """
    if not any(own) and not any(other):
        return False
    rare = all(2 * sum(lost) < len(lost) for lost in (own, other))
    return rare and fail_alike(own, other, pairs, alpha)


def _judge(
    each: _Measured, p: float, level: float, family: int, alpha: float, margin: float, metric: Metric
) -> Comparison:
    contrast, mean = each.contrast, each.mean()
    found = Comparison(
        contrast.arm,
        contrast.against,
        each.seeds,
        each.differences,
        mean,
        each.interval(LEVEL),
        _agreeing(each.interval(1 - level), p <= alpha),
        each.test,
        p,
        family,
        Verdict.NOT_SETTLED,
        alpha,
        margin,
        each.deviation(),
        contrast.task,
        each.in_pairs or not (each.own and each.other),
        sum(seed in contrast.own for seed in contrast.failed),
        sum(seed in contrast.other for seed in contrast.other_failed),
        each.set_aside,
        len(contrast.own),
        len(contrast.other),
        metric,
    )
    return replace(found, verdict=decide(mean, p, found.adjusted, found.identical, alpha, margin))


def _agreeing(interval: Interval, rejected: bool) -> Interval:
    """Extend an interval to zero if an earlier test forbids a verdict."""
    return interval if rejected else Interval(min(interval.low, 0.0), max(interval.high, 0.0))


def decide(mean: float, adjusted_p: float, adjusted: Interval, identical: bool, alpha: float, margin: float) -> Verdict:
    """Apply the rules.

    Args:
        mean: Mean difference.
        adjusted_p: After Holm.
        adjusted: The interval at the level of Holm's step.
        identical: Whether the scores are the same, seed by seed.
        alpha: Level.
        margin: Smallest difference that matters.

    Example:
        >>> ends = Interval(-0.2, 0.4)
        >>> decide(0.1, 0.2, ends, False, 0.05, 0.5).value, decide(0.1, 0.2, ends, False, 0.05, 0.3).value
        ('no clear difference', 'not settled')
    """
    if adjusted_p <= alpha and mean != 0:
        return Verdict.HELPS if mean > 0 else Verdict.HURTS
    within = -margin <= adjusted.low and adjusted.high <= margin
    return Verdict.NO_CLEAR_DIFFERENCE if identical or within else Verdict.NOT_SETTLED


def signed(value: float) -> str:
    """Write a difference with a sign and a true minus.

    Example:
        >>> signed(-0.5)
        '−0.50'
    """
    return f"{value:+.2f}".replace("-", "\u2212")


def p_text(p: float) -> str:
    """Write a p-value.

    Example:
        >>> p_text(0.03125), p_text(0.00001), p_text(float("nan"))
        ('0.031', '< 0.001', 'undefined')
    """
    if math.isnan(p):
        return "undefined"
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
