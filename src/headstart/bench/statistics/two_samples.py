"""Arms without shared seeds: an exact permutation test of two samples, and the interval that inverts it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from headstart.bench.statistics.paired import T_FROM, Floats, Interval, Test

_EXACT_UP_TO = 50_000  # splits; two samples of nine have 48,620
_RANDOM_SPLITS = 20_000


def unpaired_test(own: Sequence[float], other: Sequence[float]) -> Test:
    """Test whether two independent samples differ by more than chance: all splits of the pooled values are counted.

    With more than 50,000 splits, random ones are used; if both samples have 30 values, Welch's t.

    Args:
        own: The values of the arm.
        other: The values of the other arm.

    Returns:
        Twice the smaller one-sided p.

    Example:
        >>> unpaired_test([5.0, 6.0, 7.0, 8.0], [1.0, 2.0, 3.0, 4.0]).p == 2 / 70
        True
    """
    x, y = np.asarray(own, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if not len(x) or not len(y) or np.ptp(np.append(x, y)) == 0:
        return Test(1.0, 1.0, True)
    if min(len(x), len(y)) >= T_FROM:
        return Test(float(stats.ttest_ind(x, y, equal_var=False).pvalue), 0.0, False)
    shifts, exact = _shifts(x, y)
    total = len(shifts) + 1
    tiny = 1e-9 * float(np.abs(np.append(x, y)).max())
    above, below = 1 + np.sum(shifts <= tiny), 1 + np.sum(shifts >= -tiny)
    return Test(min(1.0, 2 * float(min(above, below)) / total), 2.0 / total, exact)


def unpaired_interval(own: Sequence[float], other: Sequence[float], level: float = 0.95) -> Interval:
    """Interval of the difference of two means that inverts :func:`unpaired_test`.

    A split that exchanges k values of each sample is as extreme as the observed one if the difference is the mean of
    the exchanged values of one sample minus that of the other. The interval goes from the m-th smallest of these to the
    m-th largest; m is half of one minus the level, times the number of splits.

    Args:
        own: The values of the arm.
        other: The values of the other arm.
        level: The smallest coverage, if the two distributions differ only by a shift.

    Returns:
        The interval; without ends if there are too few values.

    Example:
        >>> unpaired_interval([5.0, 6.0, 7.0, 8.0], [1.0, 2.0, 3.0, 4.0])
        Interval(low=1.0, high=7.0)
    """
    x, y = np.asarray(own, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if min(len(x), len(y)) >= T_FROM and np.ptp(np.append(x, y)) > 0:
        found = stats.ttest_ind(x, y, equal_var=False).confidence_interval(level)
        return Interval(float(found.low), float(found.high))
    if not len(x) or not len(y):
        return Interval(-math.inf, math.inf)
    shifts, _ = _shifts(x, y)
    rank = int((1 - level) / 2 * (len(shifts) + 1) + 1e-9)
    if rank < 1:
        return Interval(-math.inf, math.inf)
    ordered = np.sort(shifts)
    return Interval(float(ordered[rank - 1]), float(ordered[-rank]))


def _shifts(x: Floats, y: Floats) -> tuple[Floats, bool]:
    """Return, for each split but the observed one, the difference at which it is as extreme as the observed one."""
    splits, exact = _splits(len(x), len(y))
    pooled = np.append(x, y)
    sizes = splits[:, len(x) :].sum(axis=1)  # values of y that the split gives to the first sample
    moved = splits[:, len(x) :] @ y - (x.sum() - splits[:, : len(x)] @ x)
    shifts = -moved / sizes
    shifts[np.abs(shifts) <= 1e-12 * float(np.abs(pooled).max())] = 0.0
    return shifts, exact


@functools.lru_cache(maxsize=32)
def _splits(first: int, second: int) -> tuple[NDArray[np.float64], bool]:
    """Return which of the pooled values go to the first sample, ``(splits, values)``, without the observed split."""
    n = first + second
    if math.comb(n, first) <= _EXACT_UP_TO:
        chosen = np.array(list(itertools.islice(itertools.combinations(range(n), first), 1, None)), dtype=np.intp)
        exact = True
    else:
        rng = np.random.default_rng(0)
        order = np.argsort(rng.random((_RANDOM_SPLITS, n)), axis=1)[:, :first]
        chosen, exact = order[(order >= first).any(axis=1)], False
    splits = np.zeros((len(chosen), n))
    np.put_along_axis(splits, chosen.reshape(len(chosen), first), 1.0, axis=1)
    splits.setflags(write=False)
    return splits, exact
