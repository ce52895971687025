"""Paired statistics on small samples: pure functions from differences to numbers.

A *difference* is an arm's result minus the baseline's with the same seed. All tests are two-sided.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]
_EXACT_UP_TO = 20
_RESAMPLED_FROM = 5
_RANDOM_FLIPS = 100_000
_AT_ONCE = 2**20  # random values held at a time


@dataclass(frozen=True)
class Interval:
    """An interval estimate.

    Args:
        low: Lower end; minus infinity if the data cannot bound it.
        high: Upper end; then plus infinity.
    """

    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether the data could bound it."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Args:
        mean: Of the differences.
        interval: BCa, at 95 %.
    """

    mean: float
    interval: Interval


@dataclass(frozen=True)
class SignFlip:
    """Result of the sign-flip test.

    Args:
        p: Two-sided p-value.
        least: The smallest p that the data could have reached, had all differences had one sign.
        exact: Whether all sign patterns were counted, or a random sample of them.
    """

    p: float
    least: float
    exact: bool


def bca_interval(differences: Sequence[float], level: float = 0.95, resamples: int = 9999, seed: int = 0) -> Interval:
    """Bootstrap interval of the mean, bias-corrected and accelerated (Efron, 1987).

    Args:
        differences: ``(n,)``.
        level: Coverage to aim at. With few differences the true coverage is lower.
        resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Returns:
        The interval; without ends if there are fewer than five differences, of which resampling says
        next to nothing; a point if all are equal.

    Example:
        >>> bca_interval([0.5, 0.5, 0.5, 0.5, 0.5])
        Interval(low=0.5, high=0.5)
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < _RESAMPLED_FROM:
        return Interval(-math.inf, math.inf)
    if _constant(values):
        return Interval(float(values[0]), float(values[0]))
    for method in ("BCa", "percentile"):  # BCa is undefined for some ties
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (values,),
                np.mean,
                confidence_level=level,
                n_resamples=resamples,
                method=method,
                vectorized=True,
                rng=np.random.default_rng(seed),
            )
        low, high = map(float, found.confidence_interval)
        if math.isfinite(low) and math.isfinite(high):
            break
    return Interval(low, high)


def estimate(differences: Sequence[float]) -> Estimate | None:
    """Mean of paired differences with its interval; None if there is none.

    Example:
        >>> estimate([0.5, 0.5, 0.5, 0.5, 0.5])
        Estimate(mean=0.5, interval=Interval(low=0.5, high=0.5))
    """
    return Estimate(float(np.mean(differences)), bca_interval(differences)) if len(differences) else None


def stratified_mean(
    strata: Sequence[Sequence[float]], level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Estimate:
    """Unweighted mean of the means of several samples, with a bootstrap interval that resamples within each.

    Args:
        strata: Samples of any sizes from one on.
        level: Coverage to aim at. With small samples the true coverage is lower.
        resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Returns:
        The mean and its percentile interval, without ends if a sample has fewer than five values.

    Example:
        >>> stratified_mean([[1.0] * 5, [4.0] * 9])
        Estimate(mean=2.5, interval=Interval(low=2.5, high=2.5))
    """
    samples = [np.asarray(sample, dtype=np.float64) for sample in strata]
    mean = float(np.mean([sample.mean() for sample in samples]))
    if min(map(len, samples)) < _RESAMPLED_FROM:
        return Estimate(mean, Interval(-math.inf, math.inf))
    rng = np.random.default_rng(seed)
    means = np.mean([_bootstrap_means(sample, resamples, rng) for sample in samples], axis=0)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean, Interval(float(low), float(high)))


def paired_t(differences: Sequence[float]) -> float:
    """Two-sided paired t-test.

    Returns:
        The p-value; NaN where the test is undefined: fewer than two differences, or all equal and not
        zero. Differences that are all zero give 1.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return math.nan
    if _constant(values):
        return 1.0 if values[0] == 0 else math.nan
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def sign_flip(differences: Sequence[float], seed: int = 0) -> SignFlip:
    """Sign-flip test that the differences are symmetric about zero (Fisher's randomization test).

    Up to 20 differences all ``2**n`` sign patterns are counted; beyond that 100,000 random ones, with the
    observed one among them, which keeps the test valid.

    Args:
        differences: ``(n,)``; zeros carry no sign and drop out.
        seed: Of the random patterns.

    Example:
        >>> sign_flip([0.2, 0.4, 0.1, 0.3, 0.2, 0.5])
        SignFlip(p=0.03125, least=0.03125, exact=True)
    """
    values = np.asarray(differences, dtype=np.float64)
    values = np.abs(values[values != 0])
    n = len(values)
    if n == 0:
        return SignFlip(1.0, 1.0, True)
    observed = abs(math.fsum(d for d in differences))
    # Accuracies are multiples of 1/images: equal sums must not be told apart by rounding.
    threshold = observed - 1e-9 * float(values.sum())
    if n <= _EXACT_UP_TO:
        sums = np.zeros(1)
        for value in values[1:]:
            sums = np.concatenate([sums - value, sums + value])
        # The first sign stays: the other half of the patterns is the mirror image.
        return SignFlip(float(np.mean(np.abs(sums + values[0]) >= threshold)), 2.0 ** (1 - n), True)
    extreme = int(np.sum(np.abs(_random_flips(values, np.random.default_rng(seed))) >= threshold))
    return SignFlip((extreme + 1) / (_RANDOM_FLIPS + 1), max(2.0 ** (1 - n), 1 / (_RANDOM_FLIPS + 1)), False)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that rejecting at α keeps the family's error at α (Holm, 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def detectable_effect(deviation: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true mean difference that a paired t-test finds with the given power.

    Args:
        deviation: Standard deviation of the differences.
        n: Number of pairs.
        alpha: Two-sided level of the single test, after any division for several comparisons.
        power: Chance to find it.

    Returns:
        The effect, in the unit of the deviation. Infinite for fewer than two pairs.

    Example:
        >>> round(detectable_effect(1.0, 10), 3)
        0.996
    """
    if n < 2:
        return math.inf
    if deviation == 0:
        return 0.0
    return _noncentrality(n, alpha, power) * deviation / math.sqrt(n)


@functools.lru_cache(maxsize=4096)
def _noncentrality(n: int, alpha: float, power: float) -> float:
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    # The noncentral t as a mixture of normals over the estimated deviation: scipy's own gives NaN far out.
    levels = (np.arange(4000) + 0.5) / 4000
    bounds = critical * np.sqrt(stats.chi2.ppf(levels, n - 1) / (n - 1))

    def shortfall(shift: float) -> float:
        found = stats.norm.cdf(shift - bounds) + stats.norm.cdf(-shift - bounds)
        return float(np.mean(found)) - power

    return float(optimize.brentq(shortfall, 0.0, 4 * float(bounds.max()) + 20))


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
    """Mean over seeds with its t interval, point by point.

    Args:
        values: ``(seeds, points)``.
        level: Of the interval.

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


def _bootstrap_means(values: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Means of samples drawn with replacement, ``(resamples,)``, some at a time to bound the memory."""
    at_once = max(1, _AT_ONCE // len(values))
    return np.concatenate(
        [
            values[rng.integers(0, len(values), (min(at_once, resamples - start), len(values)))].mean(axis=1)
            for start in range(0, resamples, at_once)
        ]
    )


def _constant(values: Floats) -> bool:
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))
