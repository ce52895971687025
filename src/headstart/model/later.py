"""Numbers that stay on the device until they are needed: collected while methods work, then read all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from headstart.numerics.fetching import Values, fetch

Then = Callable[[Values], None]


class Later:
    """Work that waits for numbers on the device: rows of the report, notes, checks.

    A read waits until the device has finished all its work. So the walk reads nothing on its way. It leaves the numbers
    here, with what to do once they are read.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[tuple[Tensor, ...], Then]] = []

    def add(self, values: Tensor | Sequence[Tensor], then: Then) -> None:
        """Leave numbers for later.

        Args:
            values: Tensors with no axis or one. They must not change any more.
            then: Gets all values in one array. It may raise, as a check does.
        """
        self._waiting.append(((values,) if isinstance(values, Tensor) else tuple(values), then))

    def settle(self) -> None:
        """Read all numbers, once for each device, and do the waiting work in the order in which it was added.

        Raises:
            HeadstartError: A check failed; the first one is raised.
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
        require: Raises if the numbers are wrong.
        later: Where to leave the check; None makes it now.
    """
    own = Later() if later is None else later
    own.add(values, require)
    if later is None:
        own.settle()
