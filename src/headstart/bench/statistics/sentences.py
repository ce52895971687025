"""Verdicts in plain words: one sentence, one number, one action."""

from __future__ import annotations

import math
from typing import NamedTuple

from headstart.bench.statistics.paired import Interval
from headstart.bench.statistics.power import seeds_for
from headstart.bench.statistics.verdicts import Comparison, Verdict

_PROBABLY = 0.2  # adjusted p up to which a lead is called probable
_SURE = 5  # runs that all go one way: luck does so in one of sixteen
_LONG = 1e7  # a number from which on is not written out
_TIRING = 200  # more seeds are not advised


class Words(NamedTuple):
    """The sentences on a comparison.

    Args:
        sentence: The finding.
        number: The difference with its likely range.
        action: What to do next.
    """

    sentence: str
    number: str
    action: str

    def __str__(self) -> str:
        return f"{self.sentence} {self.action}"


def say(c: Comparison) -> Words:
    """Put a verdict into words.

    Args:
        c: The comparison.
    """
    number = amount(c)
    if c.exploratory:
        return Words(f"{c.arm}{_against(c)}: {number}.", number, f"Exploratory, so there is no verdict. {_more(c)}")
    if c.verdict is Verdict.HELPS:
        small = abs(c.mean) < c.margin
        action = "Use it if it costs little: you said that less does not matter." if small else "Use it."
        return Words(f"{c.arm} helps{_against(c)}: {number}.", number, action)
    if c.verdict is Verdict.HURTS:
        return Words(f"{c.arm} hurts{_against(c)}: {number}.", number, "Leave it out.")
    if c.verdict is Verdict.NO_CLEAR_DIFFERENCE:
        lost = c.seeds and c.collapsed == c.runs and c.other_collapsed == c.other_runs
        action = "Make one of them train first." if lost else f"Take whichever costs less, {c.arm} or {c.against}."
        return Words(_no_difference(c), number, action)
    if c.behind:
        why = "It is judged only after the declared question, which neither helps nor hurts, so there is no verdict."
        return Words(f"{c.arm}{_against(c)}: {number}. {why}", number, "Make it the question of a new experiment.")
    return Words(_not_settled(c), number, _more(c))


def amount(c: Comparison) -> str:
    """Write the difference with its likely range, and how often runs fail.

    Returns:
        Such as ``"+2.0 points (likely +1.2 to +2.8)"`` or ``"fails in 1 of 8 runs, otherwise +2.0 (+1.2 to +2.8)"``.
    """
    if not c.seeds:
        return "nothing to compare"
    if c.collapsed + c.other_collapsed == 0:
        return f"{_points(c, c.mean, c.metric.unit)}{_range(c, 'likely ')}"
    who = [f"fails in {c.collapsed} of {c.runs} runs"] if c.collapsed else []
    who += [f"{c.against} fails in {c.other_collapsed} of {c.other_runs}"] if c.other_collapsed else []
    how = "otherwise" if c.set_aside else "all runs counted,"
    return f"{', '.join(who)}, {how} {_points(c, c.mean, '')}{_range(c, '')}"


def decimals(margin: float) -> int:
    """Return how many decimals show a difference as large as the margin.

    Example:
        >>> decimals(0.5), decimals(0.005), decimals(20)
        (1, 3, 0)
    """
    return max(0, math.ceil(-math.log10(margin) - 1e-9))


def plus(value: float, margin: float, more: int = 0) -> str:
    """Write a difference with its sign, a true minus, and as many decimals as the margin needs.

    Example:
        >>> plus(-1.234, 0.5), plus(0.01234, 0.005, 1), plus(-0.001, 0.5)
        ('−1.2', '+0.0123', '0.0')
    """
    digits = decimals(margin) + more
    text = f"{value:+.{digits}f}" if abs(value) < _LONG else f"{value:+.3g}"
    return text[1:] if float(text) == 0 else text.replace("-", "\u2212")


def likely(interval: Interval, margin: float, more: int = 0) -> str:
    """Write an interval; an empty string if the data could not bound it."""
    return f"{plus(interval.low, margin, more)} to {plus(interval.high, margin, more)}" if interval.bounded else ""


def _points(c: Comparison, value: float, unit: str) -> str:
    return f"{plus(value, _grain(c))} {unit}".rstrip()


def _range(c: Comparison, word: str) -> str:
    return f" ({word}{likely(c.interval, _grain(c))})" if c.interval.bounded else ""


def _grain(c: Comparison) -> float:
    """The margin; a smaller number if the whole range is so far below it that only zeros would be written."""
    ends = [abs(v) for v in (c.interval.low, c.interval.high) if c.interval.bounded]
    largest = max([abs(c.mean), *ends])
    return largest / 10 if 0 < largest < 10.0 ** -decimals(c.margin) / 2 else c.margin


def _against(c: Comparison) -> str:
    return "" if c.against == "default" else f" against {c.against}"


def _no_difference(c: Comparison) -> str:
    if c.seeds and c.collapsed == c.runs and c.other_collapsed == c.other_runs:
        return f"{c.arm} and {c.against} fail in every run: there is nothing to compare."
    if c.identical:
        return f"No difference: {c.arm} has the scores of {c.against} in every run."
    fails = f" {c.arm} {amount(c)}." if c.collapsed + c.other_collapsed else ""
    what = f"{plus(c.interval.low, _grain(c))} and {plus(c.interval.high, _grain(c))} {c.metric.unit}".rstrip()
    return (
        f"No clear difference between {c.arm} and {c.against}: likely between {what}, "
        f"so any gain is below the {c.margin:g} that you said matters.{fails}"
    )


def _not_settled(c: Comparison) -> str:
    n = len(c.seeds)
    runs = f"{n} run{'s' * (n != 1)}"
    if not n:
        return f"{c.arm}: there is no run to compare with {c.against} yet."
    if c.collapsed + c.other_collapsed:
        return f"{c.arm} is not settled{_against(c)}: {amount(c)}; {runs} cannot rule out luck."
    size = f"{abs(c.mean):.{decimals(c.margin)}f} {c.metric.unit}".rstrip()
    side = "better" if c.mean > 0 else "worse"
    clean = c.wins == n if c.mean > 0 else c.losses == n
    if clean and n > 2:
        sure = f"almost certainly {'helps' if c.mean > 0 else 'hurts'}" if n >= _SURE else f"is probably {side}"
        return (
            f"{c.arm} {sure}{_against(c)}: {side} in {n} of {n} runs, by about {size}, but {runs} cannot rule out luck."
        )
    if c.adjusted_p <= _PROBABLY:
        return f"{c.arm} is probably {side}{_against(c)}, by about {size}, but {runs} cannot rule out luck."
    if not c.interval.bounded:
        return f"{c.arm} is not settled{_against(c)}: {runs} {'is' if n == 1 else 'are'} too few to say anything."
    what = f"{plus(c.interval.low, _grain(c))} and {plus(c.interval.high, _grain(c))} {c.metric.unit}".rstrip()
    return f"{c.arm} is not settled{_against(c)}: likely between {what}, and {runs} cannot tell which."


def _more(c: Comparison) -> str:
    n = len(c.seeds)
    needed = seeds_to_settle(c)
    if needed is None:
        return f"No number of seeds up to {_TIRING} would settle it: take whichever costs less."
    if needed == n + 1:
        return f"One more seed may settle it: run {needed}."
    return f"Run about {needed} seeds." if needed > c.least_seeds else f"Run at least {needed} seeds."


def seeds_to_settle(c: Comparison) -> int | None:
    """Return how many seeds would settle a comparison: find the margin, or half of the seen difference if that is more.

    Returns:
        The number, which is larger than the present one; None if it is over 200.
    """
    n = len(c.seeds)
    if n < 2:
        return c.least_seeds
    effect = max(c.margin, abs(c.mean) / 2)
    found = seeds_for(effect, c.deviation, c.alpha / c.family)
    lost = n / max(1, n - c.collapsed - c.other_collapsed) if c.set_aside else 1.0
    if found is None:
        return None
    needed = math.ceil(found * lost)
    needed = needed if needed > n else n + math.ceil(n / 2)
    return needed if needed <= _TIRING else None
