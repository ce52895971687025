"""Figures of a diagnosis over depth (extra ``plot``), without pyplot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from headstart.diagnosis.rows import LayerHealth, rate_spread
from headstart.errors import HeadstartError
from headstart.results.filter_plot import AFTER, BEFORE


def plot_signals(title: str, rows: Sequence[LayerHealth]) -> Figure:
    """Draw what a diagnosis measured over depth.

    Args:
        title: The title above the figure.
        rows: The rows of a diagnosis with data.

    Returns:
        Above: each layer's output deviation, and its deviation across samples. Below: its gradient/weight
        ratio. Both are on a logarithmic scale.

    Raises:
        HeadstartError: The diagnosis had no data.
    """
    rows = [r for r in rows if r.output_std is not None]
    if not rows:
        raise HeadstartError("The diagnosis had no data, so there are no signals to plot.", remedy="Pass data to it.")
    depth = np.arange(1, len(rows) + 1)
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _curve(above, depth, [r.output_std for r in rows], "output std", BEFORE, "s")
    _curve(above, depth, [r.across_sample_std for r in rows], "of it across samples", AFTER, "o")
    above.set_ylabel("deviation")
    above.legend(frameon=False, fontsize=9)
    _curve(below, depth, [r.gradient_ratio for r in rows], "gradient / weight", AFTER, "o")
    below.set_ylabel("gradient / weight")
    below.set_xlabel("layer, in the order data reaches it")
    for axis in (above, below):
        _logarithmic(axis)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title, fontsize=10)
    return figure


def plot_rates(title: str, before: Sequence[LayerHealth], after: Sequence[LayerHealth] | None = None) -> Figure:
    """Draw how fast each layer would learn relative to its size, as in the paper on data-dependent initialization.

    Args:
        title: The title of the model.
        before: Rows of a diagnosis with gradients.
        after: Rows of a later diagnosis of the same model, drawn beside.

    Returns:
        One point per layer, its gradient over its weight, with a bar for the coefficient of variation over
        its input channels, on a logarithmic scale. The legend has the spread over layers.

    Raises:
        HeadstartError: A diagnosis had no gradients.
    """
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    axis = figure.subplots()
    shown = [(before, "before" if after else "rate", BEFORE if after else AFTER, 0.0)]
    shown += [(after, "after", AFTER, 0.15)] if after else []
    for layers, label, colour, shift in shown:
        spread = rate_spread(layers)
        if spread is None:
            raise HeadstartError("The diagnosis has no gradients, so there are no rates to plot.", remedy="Pass data.")
        rows = [(i, r) for i, r in enumerate(layers, 1) if r.gradient_ratio]
        rates = np.array([r.gradient_ratio for _, r in rows])
        part = np.array([min(r.rate_variation or 0.0, 0.95) for _, r in rows])  # a bar to zero has no logarithm
        axis.errorbar(
            [i + shift for i, _ in rows],
            rates,
            yerr=[rates * part, rates * part],
            fmt="o-",
            color=colour,
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
            label=f"{label}: {spread:.3g}-fold over layers",
        )
    _logarithmic(axis)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("layer, in the order data reaches it")
    axis.set_ylabel("gradient / weight")
    axis.legend(frameon=False, fontsize=9)
    figure.suptitle(f"{title}: how fast layers learn", fontsize=10)
    return figure


def _curve(axis: Any, x: Any, values: list[float | None], label: str, colour: str, marker: str) -> None:
    y = [v if v is not None and math.isfinite(v) and v > 0 else math.nan for v in values]
    axis.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)


def _logarithmic(axis: Any) -> None:
    values = [v for line in axis.lines for v in line.get_ydata() if math.isfinite(v)]
    if not values:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center")
        return
    axis.set_yscale("log")
    low, high = min(values), max(values)
    if high < 30 * low:  # less than a decade and a half: show more of the scale around it
        centre = math.sqrt(low * high)
        axis.set_ylim(centre / 10, centre * 10)
    axis.yaxis.set_major_locator(LogLocator(numticks=8))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(axis="y", color="#e5e5e5", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
