"""Times until a curve reaches a threshold, of which some lie beyond its end: where, the median, its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from headstart.bench.statistics.paired import Floats, Interval


def steps_to(steps: Sequence[float], values: Sequence[float], threshold: float) -> float | None:
    """Find where a curve reaches a threshold, on the straight line between two evaluations.

    One lucky evaluation does not count: the one after it must be at the threshold, too. The last, which has none
    after it, stands for itself.

    Args:
        steps: Of the evaluations, rising.
        values: Of the curve.
        threshold: To be reached from below.

    Returns:
        The step; None if the curve never gets there, which is to say: censored at its end.

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
    """Median of times of which some (None) lie beyond the end; None if the median lies there too.

    All are censored at the same time. Of an even number the median is the mean of the two in the middle, so it
    lies beyond the end as soon as one of them does.

    Example:
        >>> censored_median([40, None, 60]), censored_median([40, None, None])
        (60.0, None)
    """
    if not times:
        return None
    median = float(np.median(_infinite(times)))
    return median if math.isfinite(median) else None


def median_interval(times: Sequence[float | None], level: float = 0.95) -> Interval:
    """Interval of the median from order statistics: valid for any distribution, and with censored times.

    The number of times below the median is binomial with probability 1/2, so the k-th smallest and the k-th
    largest enclose it with a probability that is known exactly; k is the largest that gives the level.

    Args:
        times: ``(n,)``; None lies beyond the end.
        level: Coverage, at least.

    Returns:
        The interval. Its upper end is infinite where the data cannot bound it, both ends if there are too few
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
