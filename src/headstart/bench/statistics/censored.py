"""Times until a curve reaches a threshold, some of them censored: the time, the median, its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from headstart.bench.statistics.paired import Floats, Interval


def steps_to(steps: Sequence[float], values: Sequence[float], threshold: float) -> float | None:
    """Find the step at which a curve reaches a threshold, interpolated linearly between evaluations.

    A single lucky evaluation does not count: the next one must reach the threshold too. The last evaluation, which has
    no next one, counts alone.

    Args:
        steps: The steps of the evaluations, rising.
        values: The values of the curve.
        threshold: The threshold, reached from below.

    Returns:
        The step; None if the curve does not reach it (censored at its end).

    Example:
        >>> steps_to([0, 10, 20, 30], [10, 80, 90, 92], 85), steps_to([0, 10, 20, 30], [10, 90, 80, 84], 85)
        (15.0, None)
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    above = y >= threshold - 1e-9  # a mean of accuracies must not lie above all of them by rounding
    reached = np.flatnonzero(above & np.append(above[1:], True))
    if not len(reached):
        return None
    first = int(reached[0])
    if first == 0:
        return float(x[0])
    share = min(1.0, (threshold - y[first - 1]) / (y[first] - y[first - 1]))
    return float(x[first - 1] + share * (x[first] - x[first - 1]))


def censored_median(times: Sequence[float | None]) -> float | None:
    """Median of times, some of them censored (None); None if the median is censored too.

    All are censored at the same time. For an even number the median is the mean of the middle two, so it
    is censored if one of these is.

    Example:
        >>> censored_median([40, None, 60]), censored_median([40, None, None])
        (60.0, None)
    """
    if not times:
        return None
    median = float(np.median(_infinite(times)))
    return median if math.isfinite(median) else None


def median_interval(times: Sequence[float | None], level: float = 0.95) -> Interval:
    """Interval of the median from order statistics, valid for any distribution and with censored times.

    The number of times below the median is binomial with probability 1/2, so the k-th smallest and the k-th
    largest time enclose it with an exactly known probability. k is the largest number that reaches the level.

    Args:
        times: ``(n,)``; None is a censored time.
        level: The smallest coverage.

    Returns:
        The interval. Its upper end is infinite if the data cannot bound it, both ends if there are too few
        times for the level: fewer than six for 95 %.

    Example:
        >>> median_interval([10, 20, 30, 40, 50, None])
        Interval(low=10.0, high=inf)
        >>> median_interval([10, 20, 30])
        Interval(low=-inf, high=inf)
    """
    n = len(times)
    # binom.ppf is the least m with P(X <= m) >= tail, so P(X <= m - 1) < tail: the m-th smallest serves.
    rank = int(stats.binom.ppf((1 - level) / 2, n, 0.5)) if n else 0
    if rank < 1:
        return Interval(-math.inf, math.inf)
    ordered = np.sort(_infinite(times))
    return Interval(float(ordered[rank - 1]), float(ordered[n - rank]))


def _infinite(times: Sequence[float | None]) -> Floats:
    return np.array([math.inf if t is None else t for t in times], dtype=np.float64)
