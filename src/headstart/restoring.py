"""Restoring that never stops half-way: every step is tried, and all failures become one error at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from headstart.errors import HeadstartError, ModelError

Failure = tuple[str, BaseException]
Step = tuple[str, Callable[[], object]]
_ROUNDS = 3  # a step may need what a later one mends; an interrupt may end one twice


def every(steps: Iterable[Step]) -> tuple[list[Failure], BaseException | None]:
    """Take every step, whatever fails or interrupts; steps that fail are tried again after the others.

    Args:
        steps: Functions by name; they may run twice.

    Returns:
        The steps that still failed, with their errors, and the interrupt if there was one.
    """
    failed: list[tuple[str, Callable[[], object], BaseException]] = []
    todo, interrupt = list(steps), None
    for _ in range(_ROUNDS):
        failed, at = [], 0
        while at < len(todo):
            try:
                while at < len(todo):
                    todo[at][1]()
                    at += 1
            except BaseException as error:  # noqa: PERF203
                interrupt = interrupt if isinstance(error, Exception) else error
                if at < len(todo):
                    failed.append((*todo[at], error))
                at += 1
        todo = [(name, step) for name, step, _ in failed]
        if not todo:
            break
    return [(name, error) for name, _, error in failed], interrupt


def raise_lost(failures: list[Failure], after: BaseException | None = None) -> None:
    """Raise one error for everything that could not be restored, if there is any.

    Args:
        failures: From :func:`every`.
        after: The error that ended the call before; an interrupt is raised as itself.

    Raises:
        ModelError: It names each.
    """
    if not failures:
        return
    told = ", ".join(f"'{name}' ({' '.join(str(e).split()).partition('. ')[0].rstrip('.')})" for name, e in failures)
    before = ""
    if after is not None:
        text = after.message if isinstance(after, HeadstartError) else f"{type(after).__name__}: {after}"
        before = f" That came after another error: {text}"
    error = ModelError(
        f"The call changed what cannot be restored: {told}. Everything else was restored.{before}",
        remedy="Set these to the values you need, or build the model again.",
    )
    if after is None or isinstance(after, Exception):
        raise error from after or failures[0][1]
    raise after from error


def put_back(steps: Iterable[Step], after: BaseException | None = None) -> None:
    """Take every restoring step, whatever fails.

    Args:
        steps: Functions by name.
        after: The error that made this necessary, if any; the caller raises it again.

    Raises:
        ModelError: Some steps failed; all others were taken.
    """
    failures, interrupt = every(steps)
    raise_lost(failures, interrupt or after)
    if interrupt is not None:
        raise interrupt
