"""Progress of long work: reported to a listener, or drawn on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
_SOON = 2.0  # seconds that need no bar
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def report_progress_to(listener: Listener) -> Iterator[None]:
    """Send progress to a function. It gets what is being done, how many steps are done, and how many there are.

    Example:
        >>> seen = []
        >>> with report_progress_to(lambda *said: seen.append(said)), progress_reporter() as tell:
        ...     tell("epochs", 1, 3)
        >>> seen
        [('epochs', 1, 3)]
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def no_progress() -> AbstractContextManager[None]:
    """Return a context in which no progress is drawn, for code that draws its own."""
    return report_progress_to(lambda *_: None)


@contextmanager
def progress_reporter() -> Iterator[Listener]:
    """Yield a function that reports progress: to the listener, or else to a bar on a terminal after two seconds."""
    listener = _listener.get()
    if listener is not None:
        yield listener
        return
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task, begun = bar.add_task("", total=None), time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        bar.update(task, description=what, completed=done, total=total)
        if time.monotonic() - begun > _SOON and not bar.live.is_started:
            bar.start()

    try:
        yield tell
    finally:
        if bar.live.is_started:
            bar.stop()
