"""From paired differences to a verdict, by rules that are fixed before any result is seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from headstart.bench.statistics import paired
from headstart.bench.statistics.metric import ACCURACY, Metric

POWER = 0.8


class Verdict(str, Enum):
    """The four answers."""

    HELPS = "helps"
    HURTS = "hurts"
    NO_EVIDENCE = "no evidence"
    TOO_FEW = "too few seeds to tell"


RULES = (
    "Every comparison is paired: an arm's test accuracy minus the baseline's with the same seed, which means "
    "the same data order, the same augmentation and, but for the null arm, the same default weights.",
    "“Helps” and “hurts”: the two-sided exact sign-flip test gives p ≤ {alpha:g} after Holm's adjustment over "
    "all comparisons that answer the same question; the sign of the mean difference says which.",
    "Otherwise “no evidence”, if this design would have found a difference of {margin:g} points with 80 % power.",
    "Otherwise “too few seeds to tell”, with the smallest difference that this design finds with 80 % power.",
    "Arms with the same differences in every seed are one comparison, and Holm's adjustment counts them once.",
    "A 95 % interval holds every difference that the same test, each by itself and not adjusted, does not reject at "
    "0.05 (from 30 seeds on it is Student's t interval). Five seeds and fewer cannot give one: “—”. The verdict "
    "follows the adjusted test, not the interval.",
    "Questions, each a family of its own: does a method help; what do the random controls do; what do more steps do; "
    "what do restarts do; is a method better than its random controls; than more steps; than restarts.",
)


@dataclass(frozen=True)
class Comparison:
    """An arm against another, seed by seed.

    Args:
        arm: The arm's label.
        against: The label of what it is compared with.
        seeds: Seeds that both have finished.
        differences: Arm minus other, in points of test accuracy or the metric's unit, in the order of ``seeds``.
        mean: Of the differences.
        interval: Of the mean, at 95 %, from the same test, not adjusted; without ends from too few seeds.
        t_p: Two-sided paired t-test, not adjusted; NaN where undefined.
        flip: Exact sign-flip test, not adjusted.
        adjusted_p: The sign-flip p after Holm over the family.
        family: Number of different comparisons in the family.
        detectable: Smallest difference found with 80 % power at the family's strictest level.
        verdict: The answer.
        alpha: Level of the family.
        margin: Smallest difference that matters, in points.
        metric: What the score is.
    """

    arm: str
    against: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    interval: paired.Interval
    t_p: float
    flip: paired.SignFlip
    adjusted_p: float
    family: int
    detectable: float
    verdict: Verdict
    alpha: float
    margin: float
    metric: Metric = ACCURACY

    @property
    def wins(self) -> int:
        """Seeds in which the arm is better."""
        return sum(d > 0 for d in self.differences)

    @property
    def losses(self) -> int:
        """Seeds in which the arm is worse."""
        return sum(d < 0 for d in self.differences)

    @property
    def seeds_needed(self) -> int | None:
        """Seeds with which the margin would be found, at the spread seen here; None if over 10,000."""
        deviation = float(np.std(self.differences, ddof=1)) if len(self.differences) > 1 else math.inf
        level = self.alpha / self.family
        if not math.isfinite(deviation):
            return None
        low, high = least_seeds(level), 10_000
        if paired.detectable_effect(deviation, high, level, POWER) > self.margin:
            return None
        while low < high:
            middle = (low + high) // 2
            if paired.detectable_effect(deviation, middle, level, POWER) <= self.margin:
                high = middle
            else:
                low = middle + 1
        return low

    def numbers(self) -> str:
        """Say the difference with its interval, wins and p in a few words."""
        if not self.seeds:
            return "no seed is finished in both"
        n, low, high = len(self.seeds), *map(self.metric.signed, (self.interval.low, self.interval.high))
        few = f"{n} seed{'s' * (n > 1)} cannot give a 95 % interval"
        span = f"95 % interval {low} to {high}" if self.interval.bounded else few
        mean, better = self.metric.difference(self.mean), f"better in {self.wins} of {n} seeds"
        return f"{mean} ({span}; {better}; p = {p_text(self.adjusted_p)})"

    def sentence(self) -> str:
        """Say the verdict in a sentence or two."""
        about = "" if self.against == "default" else f" against {self.against}"
        if self.verdict in (Verdict.HELPS, Verdict.HURTS):
            return f"{self.arm} {self.verdict.value}{about}: {self.numbers()}."
        if self.verdict is Verdict.NO_EVIDENCE:
            return (
                f"No evidence that {self.arm} changes {self.metric.name}{about}: {self.numbers()}. "
                f"This design detects ≥ {self.metric.amount(self.detectable)}."
            )
        return f"Too few seeds to tell about {self.arm}{about}: {self.numbers()}. {self._design()}"

    def _design(self) -> str:
        least = least_seeds(self.alpha / self.family)
        if len(self.seeds) < least:
            return (
                f"With {len(self.seeds)} seeds the exact test cannot reach p ≤ {self.alpha:g} at all; "
                f"it takes at least {least}."
            )
        needed = self.seeds_needed
        more = f"; about {needed} seeds would detect {self.margin:g}" if needed else ""
        return f"This design detects ≥ {self.metric.amount(self.detectable)}{more}."


def least_seeds(alpha: float) -> int:
    """Return how many seeds it takes until the exact sign-flip test can reach a level at all.

    Example:
        >>> least_seeds(0.05), least_seeds(0.05 / 2)
        (6, 7)
    """
    return math.ceil(1 - math.log2(alpha) - 1e-12)


def decide(
    mean: float, adjusted_p: float, n: int, family: int, detectable: float, alpha: float, margin: float
) -> Verdict:
    """Apply the rules.

    Args:
        mean: Mean difference.
        adjusted_p: Sign-flip p after Holm.
        n: Number of pairs.
        family: Comparisons in the family.
        detectable: Smallest difference found with 80 % power.
        alpha: Level.
        margin: Smallest difference that matters.

    Example:
        >>> decide(0.4, 0.01, 8, 2, 0.5, 0.05, 0.5).value, decide(0.4, 0.2, 8, 2, 0.9, 0.05, 0.5).value
        ('helps', 'too few seeds to tell')
    """
    if adjusted_p <= alpha and mean != 0:
        return Verdict.HELPS if mean > 0 else Verdict.HURTS
    if n >= least_seeds(alpha / family) and detectable <= margin:
        return Verdict.NO_EVIDENCE
    return Verdict.TOO_FEW


def compare_family(
    pairs: Sequence[tuple[str, str]],
    results: Mapping[str, Mapping[int, float]],
    alpha: float,
    margin: float,
    metric: Metric = ACCURACY,
) -> list[Comparison]:
    """Judge all comparisons that answer one question.

    Args:
        pairs: ``(arm, against)`` labels.
        results: Test accuracy in percent, or another score, by label and seed; more of it is better.
        alpha: Level of the whole family.
        margin: Smallest difference that matters, in points.
        metric: What the score is, for the sentences.

    Returns:
        One comparison per pair, on the seeds that both have. Pairs with the same differences are one hypothesis.
    """
    seeds = [tuple(s for s in results.get(arm, {}) if s in results.get(against, {})) for arm, against in pairs]
    differences = [
        tuple(results[arm][s] - results[against][s] for s in shared)
        for (arm, against), shared in zip(pairs, seeds, strict=True)
    ]
    hypotheses = [(shared, d) if d else pair for pair, shared, d in zip(pairs, seeds, differences, strict=True)]
    flips = [paired.sign_flip(d) for d in differences]
    adjusted = paired.holm([flip.p for flip in flips], hypotheses)
    family = max(1, len(set(hypotheses)))
    judged = []
    for (arm, against), shared, d, flip, p in zip(pairs, seeds, differences, flips, adjusted, strict=True):
        mean = float(np.mean(d)) if d else 0.0
        spread = float(np.std(d, ddof=1)) if len(d) > 1 else math.inf
        detectable = paired.detectable_effect(spread, len(d), alpha / family, POWER)
        judged.append(
            Comparison(
                arm,
                against,
                shared,
                d,
                mean,
                paired.flip_interval(d),
                paired.paired_t(d),
                flip,
                p,
                family,
                detectable,
                decide(mean, p, len(d), family, detectable, alpha, margin),
                alpha,
                margin,
                metric,
            )
        )
    return judged


def signed(value: float) -> str:
    """Write points with a sign and a true minus.

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
