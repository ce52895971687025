"""The choice of a configuration: successive halving on validation, then wider if the best one is at an edge.

It knows nothing of training: it returns what to try next, and takes the accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from headstart.bench.trials.grid import Axis, Configuration

WIDENINGS = 3
"""How often a grid is widened at most, on each axis."""
_FASTER = 4.0  # each round before has so many times fewer steps
_LEAST_SHARE = 1 / 16


class Wanted(NamedTuple):
    """A configuration to try, with a share of the steps."""

    configuration: Configuration
    share: float


def rounds(count: int) -> list[tuple[int, float]]:
    """Return how many configurations each round keeps, and the share of the steps for which they are trained.

    Every round halves the configurations, down to two, which are trained in full.

    Example:
        >>> rounds(6), rounds(2), rounds(1)
        ([(6, 0.0625), (3, 0.25), (2, 1.0)], [(2, 1.0)], [(1, 1.0)])
    """
    counts = [count]
    while counts[-1] > 2:
        counts.append(math.ceil(counts[-1] / 2))
    last = len(counts) - 1
    return [(kept, max(_LEAST_SHARE, _FASTER ** -(last - place))) for place, kept in enumerate(counts)]


@dataclass
class Selector:
    """Chooses among configurations.

    Args:
        configurations: What to try first; among equals the first is taken.
        axes: The axes, whose numbers may be widened.
        allowed: Tells whether a configuration is possible.

    Example:
        >>> one = Selector([{"lr": 0.1}, {"lr": 0.2}], [Axis("lr", (0.1, 0.2))], lambda configuration: False)
        >>> one.tell([70.0, 80.0])
        >>> one.chosen, one.stopped
        ({'lr': 0.2}, ('lr',))
    """

    configurations: Sequence[Configuration]
    axes: Sequence[Axis]
    allowed: Callable[[Configuration], bool]
    tried: list[tuple[Configuration, float, float | None]] = field(default_factory=list)
    chosen: Configuration | None = None
    stopped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._rounds = rounds(len(self.configurations))
        self._wanted = [Wanted(each, self._rounds[0][1]) for each in self.configurations]
        self._round, self._best, self._wider = 0, -math.inf, dict.fromkeys([axis.key for axis in self.axes], 0)

    @property
    def wanted(self) -> list[Wanted]:
        """What to try next; empty once the choice is made."""
        return list(self._wanted)

    def tell(self, accuracies: Sequence[float | None]) -> None:
        """Take the results and continue.

        Args:
            accuracies: Validation accuracies of what was wanted; None if the method refuses the model.
        """
        asked, self._wanted = self._wanted, []
        told = [(want, value) for want, value in zip(asked, accuracies, strict=True) if value is not None]
        self.tried += [(want.configuration, want.share, value) for want, value in zip(asked, accuracies, strict=True)]
        if not told:
            if self.chosen is not None:
                self._widen()
            return
        order = sorted(told, key=lambda pair: -pair[1])  # stable: the first of equals
        if self._round + 1 < len(self._rounds):
            self._round += 1
            kept, share = self._rounds[self._round]
            alive = {id(want.configuration) for want, _ in order[:kept]}
            self._wanted = [Wanted(want.configuration, share) for want, _ in told if id(want.configuration) in alive]
            return
        if order[0][1] > self._best:
            self.chosen, self._best = order[0][0].configuration, order[0][1]
        self._widen()

    def _widen(self) -> None:
        """Request the next value beyond the grid, on each axis at whose edge the best one is."""
        assert self.chosen is not None
        stopped = []
        for axis in self.axes:
            value = beyond(self.chosen.get(axis.key), [tried.get(axis.key) for tried, *_ in self.tried])
            if value is None:
                continue
            wider = {**self.chosen, axis.key: value}
            if self._wider[axis.key] < WIDENINGS and self.allowed(wider):
                self._wider[axis.key] += 1
                self._wanted.append(Wanted(wider, 1.0))
            else:
                stopped.append(axis.key)
        self.stopped = () if self._wanted else tuple(stopped)


def beyond(chosen: object, values: Sequence[object]) -> float | None:
    """Return the next number beyond the edge at which the chosen one is, in the steps of the grid; else None.

    Example:
        >>> beyond(0.01, [0.001, 0.01]), beyond(0.001, [0.001, 0.01]), beyond(2, [1, 2, 3]), beyond(0.0, [0.0, 0.1])
        (0.1, 0.0001, None, None)
    """
    numbers = sorted({float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)})
    if not isinstance(chosen, float) or len(numbers) < 2 or chosen not in (numbers[0], numbers[-1]) or chosen <= 0:
        return None
    edge, inner = (numbers[0], numbers[1]) if chosen == numbers[0] else (numbers[-1], numbers[-2])
    return float(f"{edge * edge / inner:.6g}") if inner > 0 else None
