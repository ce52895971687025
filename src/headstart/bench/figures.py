"""The page's figures as inline SVG that follows the page's light or dark colours."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.bench.analysis import Analysis, ArmSummary
from headstart.bench.statistics import Floats, mean_band
from headstart.bench.summary import printable
from headstart.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Span = tuple[list[int], Floats, Floats]

# Colours that never appear otherwise stand for the page's own, which differ between light and dark.
_INK, _FAINT, _PAPER = "#010101", "#020202", "#030303"
_HUES = tuple(f"#0401{index:02x}" for index in range(8))
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "headstart",
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
}
_DASHES: dict[str, Any] = {
    "": "-",
    "matched-random": (0, (5, 2)),
    "zero-dc-random": (0, (1, 1.5)),
    "null": (0, (4, 2, 1, 2)),
}


def hue(analysis: Analysis, arm: ArmSummary) -> int:
    """Return the number of an arm's colour: 0 for the baseline and the null, a method's own for its controls."""
    owner = arm.of if arm.control else arm.label
    methods = [method.label for method in analysis.methods]
    return 1 + methods.index(owner) % (len(_HUES) - 1) if owner in methods else 0


def learning_curves(analysis: Analysis) -> str:
    """Draw validation accuracy over steps, and beside it each arm's paired difference to the baseline.

    Bands are 95 % t intervals of the mean over seeds; controls are dashed and have none.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure = _figure(10.2, 3.9)
    with _style():
        left, right = figure.subplots(1, 2)
        spans: dict[Axes, list[Span]] = {left: [], right: []}
        for arm in _behind_first(analysis):
            steps, values = arm.curves()
            if not steps:
                continue
            spans[left].append(_line(left, steps, values, arm, _HUES[hue(analysis, arm)]))
            pairs = _paired_curves(arm, analysis.baseline)
            if arm is not analysis.baseline and len(pairs):
                spans[right].append(_line(right, steps, pairs, arm, _HUES[hue(analysis, arm)]))
        for axes, drawn in spans.items():
            _frame(axes, drawn)
        right.axhline(0, color=_INK, linewidth=1)
        left.set_title("Validation accuracy, %")
        right.set_title(f"Difference to {_clean(analysis.baseline.label)} with the same seed, points")
        for axes in (left, right):
            axes.set_xlabel("training steps")
            axes.margins(x=0.01)
        return _svg(
            figure,
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
    figure = _figure(10.2, 0.75 + 0.42 * max(1, len(arms)))
    with _style():
        axes = figure.subplots()
        margin = float(analysis.plan["margin"])
        axes.axvspan(-margin, margin, color=_FAINT, alpha=0.45, linewidth=0)
        axes.axvline(0, color=_INK, linewidth=1)
        for row, arm in enumerate(arms):
            comparison = arm.comparison
            assert comparison is not None
            colour = _HUES[hue(analysis, arm)]
            n = len(comparison.differences)
            lift = (np.arange(n) - (n - 1) / 2) * min(0.07, 0.5 / max(1, n))
            axes.scatter(comparison.differences, row + lift, s=16, color=colour, alpha=0.5, linewidths=0)
            if comparison.interval.bounded:
                axes.plot(
                    [comparison.interval.low, comparison.interval.high],
                    [row, row],
                    color=colour,
                    linewidth=2.4,
                    solid_capstyle="round",
                )
            axes.scatter(
                [comparison.mean], [row], s=58, marker="D", color=colour, edgecolors=_PAPER, linewidths=1.2, zorder=4
            )
        axes.set_yticks(range(len(arms)), [_clean(arm.label) for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"test accuracy minus that of {_clean(analysis.baseline.label)} with the same seed, points")
        return _svg(
            figure,
            "pairs",
            "Paired differences in test accuracy of each arm: one dot per seed, the mean and its 95 % interval",
        )


def _paired_curves(arm: ArmSummary, baseline: ArmSummary) -> Floats:
    """Differences of validation accuracy, ``(seeds, steps)``, on the seeds that both finished."""
    rows = []
    for seed, result in arm.results.items():
        other = baseline.results.get(seed)
        if other is not None and result["status"] == other["status"] == "done":
            rows.append([p["accuracy"] - q["accuracy"] for p, q in zip(result["curve"], other["curve"], strict=True)])
    return np.array(rows)


def _behind_first(analysis: Analysis) -> list[ArmSummary]:
    return [*analysis.controls, analysis.baseline, *analysis.methods]


def _line(axes: Axes, steps: list[int], values: Floats, arm: ArmSummary, colour: str) -> Span:
    """Draw a mean over seeds with its band, and return what it spans."""
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
    """Fit the frame to the last three quarters of the steps: the first would squeeze all that matters."""
    last = max((steps[-1] for steps, _, _ in spans), default=0)
    bottoms = [y for steps, low, _ in spans for x, y in zip(steps, low, strict=True) if x >= last / 4]
    tops = [y for steps, _, high in spans for x, y in zip(steps, high, strict=True) if x >= last / 4]
    if bottoms and max(tops) > min(bottoms):
        space = 0.04 * (max(tops) - min(bottoms))
        axes.set_ylim(min(bottoms) - space, max(tops) + space)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "bench", "The report's figures") from error
    with _style():
        return Figure(figsize=(width, height), layout="constrained")


def _style() -> Any:
    import matplotlib

    style: Any = _STYLE  # matplotlib types the names of its settings one by one
    return matplotlib.rc_context(style)


def _svg(figure: Figure, name: str, title: str) -> str:
    """Write a figure as an SVG element for a page: no outer document, own ids, the page's colours and font."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', lambda match: f"{match[1]}{name}-", text)
    text = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(title, quote=True)}"', 1)
    colours = {_INK: "var(--ink)", _FAINT: "var(--line)", _PAPER: "var(--paper)"}
    colours |= {value: f"var(--hue-{index})" for index, value in enumerate(_HUES)}
    for sentinel, variable in colours.items():
        text = text.replace(sentinel, variable)
    return text


def _clean(label: str) -> str:
    """Replace what XML cannot hold, and cut what does not fit."""
    plain = printable(label).replace("\n", " ")
    return plain if len(plain) <= 48 else plain[:47] + "…"
