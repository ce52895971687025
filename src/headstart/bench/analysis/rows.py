"""Comparisons as rows: the columns of every table of verdicts, as text and as data."""

from __future__ import annotations

from typing import Any

from headstart.bench.statistics.over_tasks import Overall
from headstart.bench.statistics.sentences import likely, plus
from headstart.bench.statistics.verdicts import Comparison, p_text
from headstart.results.sheet import Column, Sheet


def say_overall(o: Overall) -> str:
    """Say what an arm does over several tasks."""
    better = f"better on {o.wins} of {o.tasks} tasks, median {plus(o.median, o.margin)}"
    if o.effects is None or o.verdict is None:
        return f"{o.arm} over {o.tasks} tasks: {better}. A statement on other tasks needs five tasks."
    mean, span = plus(o.effects.mean, o.margin), likely(o.effects.interval, o.margin)
    new = likely(o.effects.prediction, o.margin)
    found = f"{o.verdict.value}, {mean} on average (likely {span}; a new task {new})"
    return f"{o.arm} over {o.tasks} tasks: {found}; {better}."


def record(c: Comparison) -> dict[str, Any]:
    """Return a comparison as data: its table's columns, and the ends of its intervals."""
    return Sheet([*COLUMNS, *_MORE], [c]).records()[0]


def record_overall(o: Overall) -> dict[str, Any]:
    """Return what an arm does over tasks as data."""
    return Sheet([*OVERALL, *_MORE_OVERALL], [o]).records()[0]


def _ends(low: bool, adjusted: bool) -> Any:
    def end(c: Comparison) -> float:
        interval = c.adjusted if adjusted else c.interval
        return interval.low if low else interval.high

    return end


COLUMNS: tuple[Column[Comparison], ...] = (
    Column("arm", lambda c: c.arm, "arm", lambda c: c.arm, left=True),
    Column("task", lambda c: c.task, "task", lambda c: c.task or None, left=True),
    Column("runs", lambda c: f"{len(c.seeds)}", "seeds", lambda c: len(c.seeds)),
    Column("difference", lambda c: plus(c.mean, c.margin, 1), "difference", lambda c: c.mean),
    Column("likely range", lambda c: likely(c.interval, c.margin, 1) or "—"),
    Column("better in", lambda c: "" if c.wins is None else f"{c.wins} of {len(c.seeds)}", "wins", lambda c: c.wins),
    Column("p", lambda c: p_text(c.adjusted_p), "p", lambda c: c.adjusted_p),
    Column(
        "failed", lambda c: f"{c.collapsed} of {c.runs}, up to {c.could_fail:.0%}", "collapsed", lambda c: c.collapsed
    ),
    Column("verdict", lambda c: c.word, "verdict", lambda c: None if c.exploratory else c.verdict.value, left=True),
)
"""The columns of every table of comparisons."""
_MORE: tuple[Column[Comparison], ...] = (
    Column("", str, "low", _ends(True, False)),
    Column("", str, "high", _ends(False, False)),
    Column("", str, "low_adjusted", _ends(True, True)),
    Column("", str, "high_adjusted", _ends(False, True)),
    Column("", str, "could_fail", lambda c: c.could_fail),
    Column("", str, "paired", lambda c: c.paired),
)
OVERALL: tuple[Column[Overall], ...] = (
    Column("arm", lambda o: o.arm, "arm", lambda o: o.arm, left=True),
    Column("tasks", lambda o: f"{o.tasks}", "tasks", lambda o: o.tasks),
    Column("median", lambda o: plus(o.median, o.margin, 1), "median", lambda o: o.median),
    Column(
        "middle half",
        lambda o: plus(o.interquartile_mean, o.margin, 1),
        "interquartile_mean",
        lambda o: o.interquartile_mean,
    ),
    Column("better on", lambda o: f"{o.wins} of {o.tasks}", "wins", lambda o: o.wins),
    Column("beats it", lambda o: f"{o.improvement:.0%}", "probability_of_improvement", lambda o: o.improvement),
    Column(
        "mean",
        lambda o: plus(o.effects.mean, o.margin, 1) if o.effects else "",
        "difference",
        lambda o: o.effects.mean if o.effects else None,
    ),
    Column("likely range", lambda o: likely(o.effects.interval, o.margin, 1) if o.effects else ""),
    Column("a new task", lambda o: likely(o.effects.prediction, o.margin, 1) if o.effects else ""),
    Column(
        "p",
        lambda o: p_text(o.adjusted_p) if o.effects else "",
        "p",
        lambda o: o.adjusted_p if o.effects else None,
    ),
    Column(
        "verdict",
        lambda o: o.verdict.value if o.verdict else "",
        "verdict",
        lambda o: o.verdict.value if o.verdict else None,
        left=True,
    ),
)
"""The columns of every table over tasks."""
_MORE_OVERALL: tuple[Column[Overall], ...] = (
    Column("", str, "low", lambda o: o.effects.interval.low if o.effects else None),
    Column("", str, "high", lambda o: o.effects.interval.high if o.effects else None),
    Column("", str, "low_adjusted", lambda o: o.adjusted.low if o.effects else None),
    Column("", str, "high_adjusted", lambda o: o.adjusted.high if o.effects else None),
    Column("", str, "low_new_task", lambda o: o.effects.prediction.low if o.effects else None),
    Column("", str, "high_new_task", lambda o: o.effects.prediction.high if o.effects else None),
    Column("", str, "deviation_between_tasks", lambda o: o.effects.deviation if o.effects else None),
)
