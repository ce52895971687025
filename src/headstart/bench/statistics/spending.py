"""Levels for several looks at growing data, which keep the error rate of a single test."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from headstart.bench.statistics.paired import Floats

_GRID = np.linspace(-8.0, 8.0, 801)


def spent(alpha: float, time: float) -> float:
    """Return how much of the level may be spent up to a share of the data (O'Brien and Fleming's spending).

    Args:
        alpha: Two-sided level of all looks together.
        time: Share of the data, above 0 and at most 1.

    Example:
        >>> round(spent(0.05, 0.5), 4), spent(0.05, 1.0)
        (0.0031, 0.05)
    """
    return float(min(alpha, 4 * stats.norm.sf(stats.norm.isf(alpha / 4) / math.sqrt(time)))) if time < 1 else alpha


def plan_levels(alpha: float, times: Sequence[float]) -> tuple[float, ...]:
    """Return the level at which each look tests (Lan and DeMets, 1983).

    The looks see the same growing data, so they are correlated, and the last look tests at nearly the whole level. The
    sums at the looks are treated as normal.

    Args:
        alpha: Two-sided level of all looks together.
        times: Shares of the data at the looks, rising to 1.

    Example:
        >>> [round(level, 4) for level in plan_levels(0.05, [0.25, 0.5, 0.75, 1.0])]
        [0.0, 0.003, 0.0183, 0.044]
    """
    if len(times) == 1:
        return (alpha,)
    return tuple(min(alpha, level) for level in _levels(round(alpha, 12), tuple(round(time, 9) for time in times)))


@functools.lru_cache(maxsize=1024)
def _levels(alpha: float, times: tuple[float, ...]) -> tuple[float, ...]:
    levels: list[float] = []
    density: Floats | None = None  # of the sum over the data so far, in units of its own deviation, not yet stopped
    before = 0.0
    for place, time in enumerate(times):
        goal = spent(alpha, time) - (spent(alpha, times[place - 1]) if place else 0.0)
        density = stats.norm.pdf(_GRID) if density is None else _grown(density, before, time)
        step = _GRID[1] - _GRID[0]

        def crossed(bound: float, now: Floats = density, step: float = step) -> float:
            tail = now * np.clip((np.abs(_GRID) - bound) / step + 0.5, 0, 1)
            return float(tail.sum() * step)

        bound = float(optimize.brentq(lambda b, goal=goal: crossed(b) - goal, 0.0, 8.0)) if goal > 1e-12 else 8.0
        levels.append(2 * float(stats.norm.sf(bound)))
        density = density * np.clip((bound - np.abs(_GRID)) / step + 0.5, 0, 1)
        before = time
    return tuple(levels)


def _grown(density: Floats, before: float, time: float) -> Floats:
    """Return the density of the standardized sum after more data."""
    step = _GRID[1] - _GRID[0]
    ratio, fresh = math.sqrt(before / time), math.sqrt(1 - before / time)
    kernel = stats.norm.pdf((_GRID[:, None] - ratio * _GRID[None, :]) / fresh) / fresh
    found: Floats = kernel @ density * step
    return found
