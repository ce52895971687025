"""Numbers that stay on the device until they are wanted: collected while methods work, and read all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from headstart.numerics.fetching import Values, fetch

Then = Callable[[Values], None]


class Later:
    """What waits for numbers that the device has not told yet: rows of the report, notes, checks.

    A read stops until the device has done all work. So a walk asks for nothing on its way: it leaves here what it would
    look at, and what to do then.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[tuple[Tensor, ...], Then]] = []

    def add(self, values: Tensor | Sequence[Tensor], then: Then) -> None:
        """Leave numbers for later.

        Args:
            values: Of no or one axis; not to be changed any more.
            then: Gets them one after the other in one array. It may raise, as a check does.
        """
        self._waiting.append(((values,) if isinstance(values, Tensor) else tuple(values), then))

    def settle(self) -> None:
        """Read all numbers, once for each device, and do what waits for them, in the order in which it was left.

        Raises:
            HeadstartError: The first check that fails.
        """
        waiting, self._waiting = self._waiting, []
        found = fetch([tensor for values, _ in waiting for tensor in values])
        place = 0
        for values, then in waiting:
            parts = found[place : place + len(values)]
            place += len(values)
            then(np.concatenate(parts) if parts else np.empty(0))


def checked(values: Tensor | Sequence[Tensor], require: Then, later: Later | None) -> None:
    """Make a check of numbers, now or later.

    Args:
        values: As for :meth:`Later.add`.
        require: Raises if they are wrong.
        later: Where to leave it; None makes it now.
    """
    own = Later() if later is None else later
    own.add(values, require)
    if later is None:
        own.settle()
