"""Work in turns: generators that stop where another piece of work may go on in between."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

import torch

Result = TypeVar("Result")
Ready = Callable[[], bool]
"""Whether the work can go on at once; if not, it would wait for the device."""
Turns = Generator[Ready, None, Result]
"""Work that stops after every small part of it, and returns its result in the end."""


def at_once() -> bool:
    """Say that nothing has to be waited for."""
    return True


def device_done(device: torch.device) -> Ready:
    """Return whether the device has done what this thread's stream asked of it so far."""
    if device.type != "cuda":
        return at_once
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    query: Ready = event.query
    return query


def finish(turns: Turns[Result]) -> Result:
    """Do all of the work, one turn after the other.

    Example:
        >>> def work():
        ...     yield at_once
        ...     return 3
        >>> finish(work())
        3
    """
    try:
        while True:
            next(turns)
    except StopIteration as end:
        result: Result = end.value
        return result
