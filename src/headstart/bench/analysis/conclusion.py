"""The conclusion of an experiment in two sentences: what was found, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from headstart.bench.statistics.sentences import seeds_to_settle
from headstart.bench.statistics.verdicts import Comparison, Verdict

_FOUND = (
    (Verdict.HELPS, "helps", "help"),
    (Verdict.HURTS, "hurts", "hurt"),
    (Verdict.NO_CLEAR_DIFFERENCE, "makes no clear difference", "make no clear difference"),
)


def conclude(comparisons: Sequence[Comparison], baseline: str, runs: int) -> str:
    """Say the findings and what to do next.

    Args:
        comparisons: Comparisons of methods with the baseline that have a verdict.
        baseline: The label of the baseline.
        runs: The number of runs of each arm.

    Returns:
        Sentences; empty if there is nothing to say.

    Example:
        >>> conclude([], "default", 8)
        ''
    """
    given = [c for c in comparisons if c.seeds and not c.exploratory]
    if not given:
        return ""
    found = []
    for verdict, one, many in _FOUND:
        names = [c.arm for c in given if c.verdict is verdict]
        if names:
            found.append(f"{_and(names)} {one if len(names) == 1 else many}")
    names = [c.arm for c in given if c.verdict is Verdict.NOT_SETTLED]
    if names:
        found.append(f"these runs cannot tell whether {_and(names)} {'helps' if len(names) == 1 else 'help'}")
    arms = f"{len(given)} start{'s were' if len(given) > 1 else ' was'}"
    about = f"{arms} compared with {baseline}, in {runs} trainings each that differ in nothing but the start."
    text = "; ".join(found)
    return f"{about} Found: {text}. {_next(given, baseline)}"


def _next(given: Sequence[Comparison], baseline: str) -> str:
    helps = [c.arm for c in given if c.verdict is Verdict.HELPS]
    left = [c for c in given if c.verdict is Verdict.NOT_SETTLED and not c.behind]
    needed = [n for c in left if (n := seeds_to_settle(c)) is not None]
    if not helps:
        more = f" for now; about {max(needed)} seeds would settle it" if needed else ""
        return f"Next: keep {baseline}{more}."
    use = f"use {helps[0]}" if len(helps) == 1 else f"use one of {_and(helps)}; which is better was not asked"
    if all(abs(c.mean) < c.margin for c in given if c.verdict is Verdict.HELPS):
        use = f"{use}{',' if len(helps) > 1 else ''} if it costs little"
    more = f" About {max(needed)} seeds would settle the rest." if needed else ""
    return f"Next: {use}.{more}"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
