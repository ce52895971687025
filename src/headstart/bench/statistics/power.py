"""How many seeds are needed: the power of the test, simulated for the sign-flip test."""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import stats

ALPHA = 0.05
"""The default level of all tests together."""
MARGIN = 0.5
"""The default smallest difference that matters, in points."""
POWER = 0.8
MOST = 10_000
"""The largest number of seeds that is recommended."""
_SIMULATED_UP_TO = 11
_SAMPLES = 500


def least_seeds(alpha: float) -> int:
    """Return how many seeds the exact sign-flip test needs to reach a level.

    Example:
        >>> least_seeds(0.05), least_seeds(0.05 / 2)
        (6, 7)
    """
    return math.ceil(1 - math.log2(alpha) - 1e-12)


def default_seeds(comparisons: int, alpha: float = ALPHA, least: int = 8) -> int:
    """Return the smallest number of seeds with which every comparison of a family can reach a verdict.

    Args:
        comparisons: Their number in the family.
        alpha: Its level.
        least: The number is at least this.

    Example:
        >>> default_seeds(2), default_seeds(12)
        (8, 9)
    """
    return max(least, least_seeds(alpha / max(1, comparisons)))


def detectable_effect(deviation: float, n: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """Smallest true mean difference that the test finds with the given power, if differences are normal.

    Up to 11 pairs the sign-flip test is simulated: the shift at which the test rejects a sample is the low
    end of its interval, so one simulation gives the whole power curve. From 12 pairs on, its power is within 3 % of
    Student's t, whose closed form is used (Guenther, 1981).

    Args:
        deviation: Standard deviation of the differences.
        n: Number of pairs.
        alpha: Two-sided level of the single test, after any division for several comparisons.
        power: The chance to find it.

    Returns:
        The effect, in the unit of the deviation. Infinite if the test cannot reach the level.

    Example:
        >>> 1.0 < detectable_effect(1.0, 10) < 1.1, detectable_effect(1.0, 5)
        (True, inf)
    """
    if n < max(2, least_seeds(alpha)) or not math.isfinite(deviation):
        return math.inf
    return (_simulated(n, alpha, power) if n <= _SIMULATED_UP_TO else _of_t(n, alpha, power)) * deviation


def seeds_for(effect: float, deviation: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Return the smallest number of pairs that finds a difference with the given power.

    Args:
        effect: The true difference.
        deviation: Standard deviation of the differences.
        alpha: As for :func:`detectable_effect`.
        power: Likewise.

    Returns:
        The number; None if it is over 10,000 or the deviation is not known.

    Example:
        >>> seeds_for(0.5, 1.0), seeds_for(1e-9, 1.0)
        (34, None)
    """
    if not math.isfinite(deviation) or detectable_effect(deviation, MOST, alpha, power) > effect:
        return None
    first = max(least_seeds(alpha), _SIMULATED_UP_TO + 1)
    if detectable_effect(deviation, first, alpha, power) <= effect:
        few = range(least_seeds(alpha), first)
        return next((n for n in few if detectable_effect(deviation, n, alpha, power) <= effect), first)
    critical = float(stats.norm.isf(alpha / 2))
    found = math.ceil(((critical + float(stats.norm.ppf(power))) * deviation / effect) ** 2 + critical**2 / 2 - 1e-9)
    return max(first, found)


@functools.lru_cache(maxsize=4096)
def _simulated(n: int, alpha: float, power: float) -> float:
    """Return the effect in standard deviations."""
    samples = np.random.default_rng(n).standard_normal((_SAMPLES, n)).astype(np.float32)
    subsets = (np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1
    means = samples @ (subsets / subsets.sum(axis=1, keepdims=True)).T.astype(np.float32)
    rank = int(alpha * 2 ** (n - 1) + 1e-9)
    needed = -np.partition(means, rank - 1, axis=1)[:, rank - 1]
    return float(np.quantile(needed, power))


def _of_t(n: int, alpha: float, power: float) -> float:
    critical = float(stats.norm.isf(alpha / 2))
    left = max(n - critical**2 / 2, 1e-9)
    return (critical + float(stats.norm.ppf(power))) / math.sqrt(left)
