"""The page's figures as inline SVG, with the page's light or dark colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.bench.analysis.analysis import Analysis, ArmSummary
from headstart.bench.report.svg import FAINT, HUES, INK, PAPER, clean, figure, style, to_svg
from headstart.bench.statistics.paired import Floats, mean_band
from headstart.bench.statistics.speed import Speed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Span = tuple[list[int], Floats, Floats]

_BEYOND = 110.5  # where on an axis of shares lies what is not reached within the budget
_DASHES: dict[str, Any] = {
    "": "-",
    "matched-random": (0, (5, 2)),
    "zero-dc-random": (0, (1, 1.5)),
    "equal-steps": (0, (8, 2, 1.5, 2)),
    "restarts": (0, (3, 1.5, 1, 1.5)),
    "null": (0, (4, 2, 1, 2)),
}


def hue(analysis: Analysis, arm: ArmSummary) -> int:
    """Return the number of an arm's colour: 0 for the baseline and the null, a method's own for its controls."""
    owner = arm.of if arm.control else arm.label
    methods = [method.label for method in analysis.methods]
    return 1 + methods.index(owner) % (len(HUES) - 1) if owner in methods else 0


def learning_curves(analysis: Analysis) -> str:
    """Draw validation accuracy over steps, and beside it each arm's paired difference to the baseline.

    Bands are 95 % t intervals of the mean over seeds; controls are dashed and have none.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    drawn = figure(10.2, 3.9)
    with style():
        left, right = drawn.subplots(1, 2)
        spans: dict[Axes, list[Span]] = {left: [], right: []}
        for arm in _behind_first(analysis):
            steps, values = arm.curves()
            if not steps:
                continue
            spans[left].append(_line(left, steps, values, arm, HUES[hue(analysis, arm)]))
            pairs = _paired_curves(arm, analysis.baseline)
            if arm is not analysis.baseline and len(pairs):
                spans[right].append(_line(right, steps, pairs, arm, HUES[hue(analysis, arm)]))
        for axes, lines in spans.items():
            _frame(axes, lines)
        right.axhline(0, color=INK, linewidth=1)
        if analysis.baseline.speed:
            left.axhline(
                analysis.baseline.speed.target.accuracy, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1
            )
        left.set_title(_curve_title(analysis))
        right.set_title(f"Difference to {clean(analysis.baseline.label)} with the same seed{_unit(analysis)}")
        for axes in (left, right):
            axes.set_xlabel("training steps")
            axes.margins(x=0.01)
        return to_svg(
            drawn,
            "curves",
            "Learning curves: validation accuracy over training steps of each arm, "
            "and paired differences to the baseline",
        )


def paired_differences(analysis: Analysis) -> str:
    """Draw each seed's difference in test accuracy as a dot, with the mean and its interval.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    arms = [arm for arm in analysis.arms[1:] if arm.comparison is not None and arm.comparison.seeds]
    drawn = figure(10.2, 0.75 + 0.42 * max(1, len(arms)))
    with style():
        axes = drawn.subplots()
        margin = float(analysis.plan["margin"])
        axes.axvspan(-margin, margin, color=FAINT, alpha=0.45, linewidth=0)
        axes.axvline(0, color=INK, linewidth=1)
        for row, arm in enumerate(arms):
            comparison = arm.comparison
            assert comparison is not None
            ends = (comparison.interval.low, comparison.interval.high) if comparison.interval.bounded else None
            _estimate(axes, row, comparison.differences, comparison.mean, ends, HUES[hue(analysis, arm)])
        _rows(axes, arms)
        what = clean(f"{analysis.metric.name} minus that of {analysis.baseline.label}")
        if analysis.metric.lower_is_better:
            what = clean(f"{analysis.metric.name} of {analysis.baseline.label} minus that of the arm")
        axes.set_xlabel(f"{what} with the same seed{_unit(analysis)}")
        return to_svg(
            drawn,
            "pairs",
            f"Paired differences in {clean(analysis.metric.name)} of each arm: one dot per seed, the mean and its 95 % "
            "interval",
        )


def steps_to_baseline(analysis: Analysis) -> str:
    """Draw the share of the steps after which each seed reaches the baseline's final accuracy, and the median.

    Seeds that do not reach it are in a separate strip at the end.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    arms = [arm for arm in analysis.arms if arm.speed is not None]
    drawn = figure(10.2, 0.75 + 0.42 * max(1, len(arms)))
    with style():
        axes = drawn.subplots()
        for row, arm in enumerate(arms):
            speed = arm.speed
            assert speed is not None
            ends = (place(speed, speed.interval.low), place(speed, speed.interval.high)) if speed.estimated else None
            values = [place(speed, steps) for steps in speed.steps.values()]
            _estimate(axes, row, values, place(speed, speed.median), ends, HUES[hue(analysis, arm)])
        _rows(axes, arms)
        share_axis(axes)
        target = next((arm.speed.target.accuracy for arm in arms if arm.speed), float("nan"))
        axes.set_xlabel(
            f"share of the steps until validation reaches {target:.2f} %, {clean(analysis.baseline.label)}'s final mean"
        )
        return to_svg(
            drawn,
            "speed",
            "Share of the steps until each arm reaches the baseline's final validation accuracy: one dot per seed, "
            "the median and its 95 % interval",
        )


def share_axis(axes: Axes, narrow: bool = False) -> None:
    """Make an axis of shares of the budget in percent, with a strip for "not reached"."""
    labels = {0: "0 %", 50: "50 %", 100: ""} if narrow else {share: f"{share} %" for share in range(0, 101, 20)}
    axes.set_xlim(0, _BEYOND + 6)
    axes.axvspan(104, _BEYOND + 6, color=FAINT, alpha=0.45, linewidth=0)
    axes.set_xticks([*labels, _BEYOND], [*labels.values(), "not reached"])


def place(speed: Speed, steps: float | None) -> float:
    """Place steps on the axis of shares."""
    return _BEYOND if steps is None or not np.isfinite(steps) else 100 * steps / speed.target.budget


def _curve_title(analysis: Analysis) -> str:
    metric = analysis.metric
    name = f"Validation {metric.short}" if metric.own else metric.name
    return clean(name) + ", %" * bool(metric.unit)


def _unit(analysis: Analysis) -> str:
    return f", {analysis.metric.unit}" if analysis.metric.unit else ""


def _estimate(
    axes: Axes, row: int, values: Sequence[float], centre: float, ends: tuple[float, float] | None, colour: str
) -> None:
    """Draw a row: a dot per seed, a bar for the interval, a diamond for the estimate."""
    n = len(values)
    lift = (np.arange(n) - (n - 1) / 2) * min(0.07, 0.5 / max(1, n))
    axes.scatter(values, row + lift, s=16, color=colour, alpha=0.5, linewidths=0, zorder=2)
    if ends is not None:
        axes.plot(ends, [row, row], color=colour, linewidth=2.4, solid_capstyle="round", zorder=3)
    axes.scatter([centre], [row], s=58, marker="D", color=colour, edgecolors=PAPER, linewidths=1.2, zorder=4)


def _rows(axes: Axes, arms: Sequence[ArmSummary]) -> None:
    axes.set_yticks(range(len(arms)), [clean(arm.label) for arm in arms])
    axes.set_ylim(max(1, len(arms)) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _paired_curves(arm: ArmSummary, baseline: ArmSummary) -> Floats:
    """Differences of validation accuracy, ``(seeds, steps)``, on the seeds that both arms have finished.

    An arm with more steps is compared after the same share of its own.
    """
    rows = []
    for seed, result in arm.results.items():
        other = baseline.results.get(seed)
        if other is not None and result["status"] == other["status"] == "done":
            own, base = _shares(result["curve"]), _shares(other["curve"])
            rows.append(own[1] - np.interp(own[0], *base))
    return np.array(rows)


def _shares(curve: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats]:
    """Return the share of its steps after which each point of a curve was measured, and its accuracy."""
    steps = np.array([point["step"] for point in curve], dtype=float)
    return steps / steps[-1], np.array([point["accuracy"] for point in curve])


def _behind_first(analysis: Analysis) -> list[ArmSummary]:
    return [*analysis.controls, analysis.baseline, *analysis.methods]


def _line(axes: Axes, steps: list[int], values: Floats, arm: ArmSummary, colour: str) -> Span:
    """Draw a mean over seeds with its band, and return its range."""
    mean, low, high = mean_band(values)
    axes.plot(
        steps,
        mean,
        color=colour,
        linestyle=_DASHES.get(arm.control, "-"),
        linewidth=1.2 if arm.control else 2.1,
        alpha=0.9 if arm.control else 1,
    )
    if arm.control:
        return steps, mean, mean
    axes.fill_between(steps, low, high, color=colour, alpha=0.16, linewidth=0)
    return steps, low, high


def _frame(axes: Axes, spans: list[Span]) -> None:
    """Fit the frame to the last three quarters of the steps; the first quarter would compress the rest."""
    last = max((steps[-1] for steps, _, _ in spans), default=0)
    bottoms = [y for steps, low, _ in spans for x, y in zip(steps, low, strict=True) if x >= last / 4]
    tops = [y for steps, _, high in spans for x, y in zip(steps, high, strict=True) if x >= last / 4]
    if bottoms and max(tops) > min(bottoms):
        space = 0.04 * (max(tops) - min(bottoms))
        axes.set_ylim(min(bottoms) - space, max(tops) + space)
