"""Pictures of a bank's filters (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from headstart.banks.entry import Entry
from headstart.results.filter_plot import DIVERGING, tiles

ROWS = 24  # entries that are drawn
COLUMNS = 12  # clusters of an entry that are drawn, the largest
_CELL = 0.75  # inches


def plot_bank(title: str, entries: Sequence[Entry]) -> Figure:
    """Draw a row per entry and a column per cluster, the largest first, with its share of the filters below.

    Each row has its own scale, from blue (negative) over white (zero) to red (positive), since rows differ much in
    size. Whole filters of three channels are in colour; of others the first four channels are side by side.
    One-dimensional kernels are lines; of three-dimensional ones the centre slice is drawn.
    """
    shown = entries[:ROWS]
    columns = min(COLUMNS, max(len(entry) for entry in shown))
    figure = Figure(figsize=(2.6 + _CELL * columns, 0.7 + 1.25 * _CELL * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), columns, squeeze=False)
    for axes, entry in zip(grid, shown, strict=True):
        filters = entry.centroids.numpy()
        filters = filters if entry.whole else filters[:, None]
        scale = float(np.abs(filters).max()) or 1.0
        share = (entry.sizes / entry.sizes.sum()).tolist()
        for axis in axes:
            axis.set_axis_off()
        for axis, kernel, part in zip(axes, filters, share, strict=False):
            _draw(axis, kernel, scale)
            axis.text(0.5, -0.04, f"{100 * part:.0f}%", transform=axis.transAxes, ha="center", va="top", fontsize=7)
        label = f"{entry.layer or 'pooled'}\n{entry.form}\ndepth {entry.depth:.2f}"
        axes[0].text(-0.1, 0.5, label, transform=axes[0].transAxes, ha="right", va="center", fontsize=7)
    more = f", the first {len(shown)} of {len(entries)} entries" if len(entries) > len(shown) else ""
    figure.suptitle(f"{title}{more}", fontsize=10)
    return figure


def _draw(axis: Any, kernel: Any, scale: float) -> None:
    if kernel.ndim == 2:  # channels, taps
        axis.axhline(0, color="#cccccc", linewidth=0.6)
        axis.plot(kernel.T, linewidth=1.0)
        axis.set_ylim(-1.08 * scale, 1.08 * scale)
        return
    colour = len(kernel) == 3
    axis.imshow(
        tiles(kernel[None], scale if colour else None)[0],
        cmap=DIVERGING,
        vmin=-scale,
        vmax=scale,
        interpolation="nearest",
    )
