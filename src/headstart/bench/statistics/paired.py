"""Paired statistics for small samples, as pure functions of the differences.

A *difference* is an arm's result minus the baseline's with the same seed. All tests are two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
EXACT_UP_TO = 20
_RANDOM_FLIPS = 100_000
T_FROM = 30
"""From this many pairs on, test and interval are Student's t."""
_ROUNDING = 1e-9  # accuracies are multiples of 1/images: equal sums must not be told apart by rounding


@dataclass(frozen=True)
class Interval:
    """An interval estimate.

    Args:
        low: Lower end; minus infinity if the data cannot bound it.
        high: Upper end; plus infinity if the data cannot bound it.
    """

    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether the data bound it."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Args:
        mean: The mean of the differences.
        interval: The interval of :func:`flip_interval`, at 95 %.
    """

    mean: float
    interval: Interval


@dataclass(frozen=True)
class Test:
    """Result of a test, two-sided.

    Args:
        p: Two-sided p-value.
        least: The smallest p that this many differences can reach.
        exact: Whether all patterns were counted (not a random sample of them, nor Student's t).
    """

    __test__ = False  # of this package, not of pytest

    p: float
    least: float
    exact: bool


def flip_interval(differences: Sequence[float], level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of the mean difference that inverts the sign-flip test.

    It holds every value that :func:`paired_test` does not reject when it is subtracted from all differences. So it
    excludes zero exactly where the test, before any adjustment, does. There are ``2**n - 1`` means over non-empty
    subsets of the differences. The interval goes from the m-th smallest to the m-th largest; m is ``2**(n - 1)`` times
    one minus the level, rounded down (Hartigan, 1969). Beyond 20 differences the random subsets of the test are used;
    from 30 on it is Student's t interval.

    Args:
        differences: ``(n,)``.
        level: The smallest coverage, if the differences are symmetric about their mean.
        seed: The seed of the random subsets.

    Returns:
        The interval; without ends if there are too few differences to reject anything, such as five at 95 %.

    Example:
        >>> flip_interval([0.2, 0.4, 0.1, 0.3, 0.2, 0.5]), flip_interval([0.2, 0.4, 0.1, 0.3, 0.2])
        (Interval(low=0.1, high=0.5), Interval(low=-inf, high=inf))
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n >= T_FROM and not _constant(values):
        low, high = stats.t.interval(level, n - 1, values.mean(), stats.sem(values))
        return Interval(float(low), float(high))
    patterns = 2.0 ** (n - 1) if n <= EXACT_UP_TO else _RANDOM_FLIPS + 1
    rank = int((1 - level) * patterns + 1e-9)
    if rank < 1:
        return Interval(-math.inf, math.inf)
    if _constant(values):
        return Interval(float(values[0]), float(values[0]))
    lows, highs = _subset_means(values) if n <= EXACT_UP_TO else _random_subset_means(values, seed)
    ends = np.array([np.partition(lows, rank - 1)[rank - 1], -np.partition(-highs, rank - 1)[rank - 1]])
    ends[np.abs(ends) <= _ROUNDING * np.abs(values).sum()] = 0.0  # as the test, which then does not reject zero
    return Interval(float(ends[0]), float(ends[1]))


def estimate(differences: Sequence[float]) -> Estimate | None:
    """Mean of paired differences with its interval; None without differences.

    Example:
        >>> estimate([0.5] * 6)
        Estimate(mean=0.5, interval=Interval(low=0.5, high=0.5))
    """
    return Estimate(float(np.mean(differences)), flip_interval(differences)) if len(differences) else None


def paired_t(differences: Sequence[float]) -> float:
    """Two-sided paired t-test.

    Returns:
        The p-value; NaN if the test is undefined: fewer than two differences, or all equal and not
        zero. Differences that are all zero give 1.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return math.nan
    if _constant(values):
        return 1.0 if values[0] == 0 else math.nan
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def paired_test(differences: Sequence[float]) -> Test:
    """Test whether paired differences exceed chance: by sign flips, or by Student's t from 30 differences on.

    :func:`flip_interval` inverts exactly this test.

    Args:
        differences: ``(n,)``. If all are equal, the sign-flip test is always used, since t is undefined.

    Example:
        >>> paired_test([0.2, 0.4, 0.1, 0.3, 0.2, 0.5]).p
        0.03125
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < T_FROM or _constant(values):
        return sign_flip(differences)
    return Test(paired_t(differences), 0.0, False)


def sign_flip(differences: Sequence[float], seed: int = 0) -> Test:
    """Sign-flip test that the differences are symmetric about zero (Fisher's randomization test).

    Up to 20 differences all ``2**n`` sign patterns are counted; beyond that 100,000 random ones, with the
    observed one among them, which keeps the test valid.

    Args:
        differences: ``(n,)``; zeros have no sign and are dropped.
        seed: The seed of the random patterns.

    Example:
        >>> sign_flip([0.2, 0.4, 0.1, 0.3, 0.2, 0.5])
        Test(p=0.03125, least=0.03125, exact=True)
    """
    everyone = np.asarray(differences, dtype=np.float64)
    values = np.abs(everyone[everyone != 0])
    n = len(values)
    if n == 0:
        return Test(1.0, 1.0, True)
    threshold = abs(math.fsum(everyone)) - _ROUNDING * float(values.sum())
    if len(everyone) <= EXACT_UP_TO:
        sums = np.zeros(1)
        for value in values[1:]:
            sums = np.concatenate([sums - value, sums + value])
        # The first sign stays: the other half of the patterns is the mirror image.
        return Test(float(np.mean(np.abs(sums + values[0]) >= threshold)), 2.0 ** (1 - n), True)
    extreme = int(np.sum(np.abs(_random_flips(everyone, np.random.default_rng(seed))) >= threshold))
    return Test((extreme + 1) / (_RANDOM_FLIPS + 1), max(2.0 ** (1 - n), 1 / (_RANDOM_FLIPS + 1)), False)


def holm(p_values: Sequence[float], hypotheses: Sequence[Hashable] | None = None) -> list[float]:
    """Adjust p-values so that rejecting at α keeps the error rate of the family at α (Holm, 1979).

    Args:
        p_values: The p-values of the tests.
        hypotheses: The hypothesis of each test; equal ones count once. By default all differ.

    Example:
        >>> holm([0.01, 0.04, 0.03]), holm([0.01, 0.04, 0.04], ["a", "b", "b"])
        ([0.03, 0.06, 0.06], [0.02, 0.04, 0.04])
    """
    names = list(range(len(p_values)) if hypotheses is None else hypotheses)
    own = dict(zip(names, p_values, strict=True))
    adjusted: dict[Hashable, float] = {}
    running = 0.0
    for rank, name in enumerate(sorted(own, key=lambda name: own[name])):
        running = adjusted[name] = max(running, min(1.0, (len(own) - rank) * own[name]))
    return [adjusted[name] for name in names]


def area_under_curve(steps: Sequence[float], values: Sequence[float]) -> float:
    """Mean height of a curve over its steps, by the trapezoid rule.

    Example:
        >>> area_under_curve([0, 10, 20], [0, 50, 50])
        37.5
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return float(y.mean()) if len(y) else math.nan
    return float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)) / (x[-1] - x[0]))


def mean_band(values: Floats, level: float = 0.95) -> tuple[Floats, Floats, Floats]:
    """Mean over seeds with its t interval, for every point.

    Args:
        values: ``(seeds, points)``.
        level: The level of the interval.

    Returns:
        Mean, lower and upper end, each ``(points,)``. One seed has no spread: all three are equal.
    """
    mean = values.mean(axis=0)
    n = len(values)
    if n < 2:
        return mean, mean, mean
    half = stats.t.ppf(0.5 + level / 2, n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half


def _random_flips(values: Floats, rng: np.random.Generator) -> Floats:
    """Sums of the values with fair, independent random signs, ``(_RANDOM_FLIPS,)``.

    A random byte holds the signs of eight values, and a table their sum for each of the 256 bytes: one look-up
    instead of eight multiplications.
    """
    eights = np.append(values, np.zeros(-len(values) % 8)).reshape(-1, 8)
    signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * 2.0 - 1.0
    sums = np.zeros(_RANDOM_FLIPS)
    for table in eights @ signs.T:
        sums += table[rng.integers(0, 256, _RANDOM_FLIPS, dtype=np.uint8)]
    return sums


def _subset_means(values: Floats) -> tuple[Floats, Floats]:
    """Means over all non-empty subsets, ``(2**n - 1,)``, once for each end of an interval."""
    sums, sizes = np.zeros(1), np.zeros(1)
    for value in values:
        sums, sizes = np.concatenate([sums, sums + value]), np.concatenate([sizes, sizes + 1])
    means = sums[1:] / sizes[1:]
    return means, means


def _random_subset_means(values: Floats, seed: int) -> tuple[Floats, Floats]:
    """Means over the subsets that random signs flip, ``(_RANDOM_FLIPS,)``, for the lower and for the upper end.

    Signs and their opposites are one pattern of the two-sided test: of a subset and its complement, the lower mean
    counts for the lower end and the higher mean for the upper end. Flipping all signs, or none, is always extreme.
    """
    flipped = _random_flips(values, np.random.default_rng(seed))
    kept = _random_flips(np.ones(len(values)), np.random.default_rng(seed))  # the same signs, counted
    with np.errstate(divide="ignore", invalid="ignore"):
        one = (values.sum() - flipped) / (len(values) - kept)
        other = (values.sum() + flipped) / (len(values) + kept)
    whole = np.abs(kept) == len(values)
    return np.where(whole, -np.inf, np.minimum(one, other)), np.where(whole, np.inf, np.maximum(one, other))


def _constant(values: Floats) -> bool:
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))
