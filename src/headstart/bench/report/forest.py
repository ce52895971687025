"""The forest plot: every method in every experiment, its difference and its steps to the default's accuracy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.bench.report.figures import place, share_axis
from headstart.bench.report.overview import MethodRows, Overview, Row, overall_cells
from headstart.bench.report.summary import PILLS, span
from headstart.bench.report.svg import FAINT, HUES, INK, PAPER, STATES, clean, figure, style, to_svg
from headstart.bench.statistics.paired import Interval
from headstart.bench.statistics.verdicts import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NONE = Interval(-math.inf, math.inf)
_HEIGHT = 0.27  # of a row, in inches
_WIDTHS = (2.65, 3.1, 2.75, 2.7, 0.6)
_LONGEST = 38  # characters of a name
_REACH = 8  # the frame holds what is within so many times the median row


@dataclass(frozen=True)
class _Line:
    """A line of the figure: a method's name, one of its experiments, or its overall row."""

    at: float
    method: MethodRows
    row: Row | None = None
    overall: bool = False


def forest(overview: Overview) -> str:
    """Draw differences in test accuracy with their intervals, and beside them the steps to the baseline's accuracy.

    Colours show the verdicts. A band behind each row shows its experiment's margin.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    lines = _lines(overview)
    bottom = max((line.at for line in lines), default=0.0) + 0.7
    drawn = figure(sum(_WIDTHS), _HEIGHT * (bottom + 1.4) + 0.6)
    with style():
        grid: Any = drawn.subplots(1, 5, sharey=True, gridspec_kw={"width_ratios": _WIDTHS})
        names, differences, numbers, steps, counts = grid
        for axes in (names, numbers, counts):
            axes.set_axis_off()
            axes.set_xlim(0, 1)
        differences.axvline(0, color=INK, linewidth=1, zorder=1)
        share_axis(steps, narrow=True)
        reach = _reach(overview)
        differences.set_xlim(-reach, reach)
        for line in lines:
            if line.row is not None:
                _text(names, 0.06, line.at, clean(line.row.part.title, _LONGEST))
                _experiment(differences, numbers, line.at, line.row)
                _steps(steps, counts, line.at, line.row)
            elif line.overall and line.method.overall is not None:
                _text(names, 0.06, line.at, overall_cells(line.method.overall).title, style="italic")
                _mean(differences, numbers, line.at, line.method)
            else:
                _text(names, 0, line.at, clean(line.method.label, _LONGEST), weight="bold")
                for axes in (differences, steps):
                    axes.axhline(line.at - 0.62, color=FAINT, linewidth=0.6)
        for axes, at, header in (
            (names, 0, "method, experiment"),
            (numbers, 0.02, "points (95 % interval)"),
            (numbers, 0.7, "verdict"),
            (counts, 0.1, "reached"),
        ):
            _text(axes, at, -1.1, header, size=8.2)
        differences.set_title("Test accuracy, arm minus baseline")
        steps.set_title("Steps to the baseline's final accuracy")
        differences.set_xlabel("points, paired by seed")
        steps.set_xlabel("share of the steps, start included")
        for axes in (differences, steps):
            axes.set_ylim(bottom, -0.75)
            axes.set_yticks([])
            axes.tick_params(axis="x", labeltop=True)
        return to_svg(
            drawn,
            "forest",
            "Forest plot: for each method and experiment the mean paired difference in test accuracy with its 95 % "
            "interval and verdict, and the median share of the steps to the baseline's final accuracy",
        )


def _lines(overview: Overview) -> list[_Line]:
    lines, at = [], 0.0
    for method in overview.methods:
        lines.append(_Line(at, method))
        for row in method.rows:
            at += 1
            lines.append(_Line(at, method, row))
        if method.overall is not None:
            at += 1
            lines.append(_Line(at, method, overall=True))
        at += 1.45
    return lines


def _experiment(axes: Axes, numbers: Axes, at: float, row: Row) -> None:
    c = row.comparison
    if c is None:
        _text(numbers, 0.7, at, row.state)
        return
    colour = STATES[PILLS[c.verdict]]
    axes.fill_betweenx([at - 0.42, at + 0.42], -c.margin, c.margin, color=FAINT, alpha=0.55, linewidth=0, zorder=0)
    if c.interval.bounded:
        axes.plot([c.interval.low, c.interval.high], [at, at], color=colour, linewidth=2, zorder=3)
    axes.scatter([c.mean], [at], s=34, marker="s", color=colour, edgecolors=PAPER, linewidths=1, zorder=4)
    _arrows(axes, at, c.interval if c.interval.bounded else Interval(c.mean, c.mean), colour)
    _text(numbers, 0.02, at, _with_interval(c.mean, c.interval))
    _text(numbers, 0.7, at, row.state, color=colour, weight="bold")


def _mean(axes: Axes, numbers: Axes, at: float, method: MethodRows) -> None:
    """Draw the diamond of a mean; its width is the interval."""
    assert method.overall is not None
    effects = method.overall.effects
    mean, interval = (effects.mean, effects.interval) if effects else (method.overall.median, _NONE)
    if effects:
        new = effects.prediction
        axes.plot([new.low, new.high], [at, at], color=INK, linewidth=0.9, linestyle=(0, (1, 2)), zorder=3)
    if interval.bounded:
        axes.fill([interval.low, mean, interval.high, mean], [at, at - 0.34, at, at + 0.34], color=INK, zorder=4)
    else:
        axes.scatter([mean], [at], s=40, marker="D", color=INK, zorder=4)
    _arrows(axes, at, interval if interval.bounded else Interval(mean, mean), INK)
    _text(numbers, 0.02, at, _with_interval(mean, interval), style="italic")


def _steps(axes: Axes, counts: Axes, at: float, row: Row) -> None:
    speed = row.arm.speed
    if speed is None:
        return
    axes.plot(
        [place(speed, speed.target.median)] * 2,
        [at - 0.36, at + 0.36],
        color=HUES[0],
        linewidth=1.4,
        alpha=0.65,
        zorder=2,
    )
    if speed.estimated:
        ends = [place(speed, speed.interval.low), place(speed, speed.interval.high)]
        axes.plot(ends, [at, at], color=HUES[1], linewidth=2, zorder=3)
    median = place(speed, speed.median)
    axes.scatter([median], [at], s=34, marker="s", color=HUES[1], edgecolors=PAPER, linewidths=1, zorder=4)
    _text(counts, 0.1, at, f"{speed.reached} of {len(speed.steps)}")


def _reach(overview: Overview) -> float:
    """Choose the range of the frame on both sides of zero, so that one extreme row does not compress the others."""
    found = [row.comparison for method in overview.methods for row in method.compared if row.comparison]
    ends = [max(abs(c.interval.low), abs(c.interval.high)) if c.interval.bounded else abs(c.mean) for c in found]
    margin = max((c.margin for c in found), default=1.0)
    return 1.06 * max(1.5 * margin, min(max(ends), _REACH * float(np.median(ends)))) if ends else margin


def _arrows(axes: Axes, at: float, interval: Interval, colour: str) -> None:
    """Mark a row that leaves the frame with an arrow."""
    left, right = axes.get_xlim()
    for beyond, x, marker in ((interval.low < left, left, "<"), (interval.high > right, right, ">")):
        if beyond:
            axes.scatter([x], [at], s=42, marker=marker, color=colour, linewidths=0, clip_on=False, zorder=5)


def _with_interval(mean: float, interval: Interval) -> str:
    return f"{signed(mean)} ({span(interval)})" if interval.bounded and math.isfinite(mean) else signed(mean)


def _text(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Write beside the panels, without changing their width."""
    axes.text(x, y, text, va="center", **{"size": 8.4, **options}).set_in_layout(False)
