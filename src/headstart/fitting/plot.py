"""The picture of training on a sample (extra ``plot``). A figure, never pyplot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from headstart.results.filter_plot import AFTER, BEFORE

if TYPE_CHECKING:
    from headstart.fitting.curves import SampleCurves


def sample_curves(curves: SampleCurves) -> Figure:
    """Draw a start by training over its epochs: loss (logarithmic where it varies tenfold) and accuracy.

    Args:
        curves: From `headstart.sample_curves`.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    colours = {"sample": "#b3541e", "training": AFTER, "validation": "#2e7d4f"}
    names = {"sample": f"the sample ({curves.size})", "training": "all training data", "validation": "validation"}
    for place, (field, label) in enumerate((("loss", "cross-entropy"), ("accuracy", "accuracy (%)")), start=1):
        axes = figure.add_subplot(1, 2, place)
        values = []
        for data, colour in colours.items():
            for norm, style in (("evaluation", "-"), ("training", "--")):
                points = curves.of(data, norm)
                if points:
                    heights = [getattr(p, field) for p in points]
                    values += heights
                    text = names[data] if norm == "evaluation" else None
                    axes.plot([p.epoch for p in points], heights, style, color=colour, label=text, linewidth=1.6)
        if field == "loss" and min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
        axes.set_xlabel("epochs over the sample")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    axes.plot([], [], "--", color=BEFORE, label="batch norm by the batch")
    axes.legend(frameon=False, fontsize=8)
    return figure
