"""Pictures (extra ``plot``): filters before and after, and a diagnosis over depth. Figures, never pyplot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from headstart.errors import HeadstartError

if TYPE_CHECKING:
    from headstart.curves import SampleCurves
    from headstart.health import Diagnosis

FILTERS = 64  # at most so many filters are drawn
CHANNELS = 4  # of a filter with other than 1 or 3 channels
_COLUMNS = 8
_GAP = 10  # pixels between filters, which are about 24 wide
_CLIP = 99.5  # percentile of magnitudes that gets full colour: one large weight must not pale the rest
DIVERGING = "RdBu_r"  # readable without telling red from green
_BEFORE, _AFTER = "#8a8a8a", "#1f5fa8"


def filter_pair(before: Tensor, after: Tensor) -> Figure:
    """Draw a convolution's filters before and after, on one scale.

    Args:
        before: ``(out, in/groups, *kernel)``, in one, two or three dimensions.
        after: Same shape.

    Returns:
        Two panels of filters in the same places. One channel is drawn from blue (negative) over white (zero)
        to red (positive); three as RGB around mid gray; of any other number the first four side by side.
        One-dimensional kernels are lines, one per channel; three-dimensional ones their centre slice. Changed
        filters are framed.

    Raises:
        HeadstartError: The weights are not those of one convolution, or not finite.

    Example:
        >>> import torch
        >>> figure = filter_pair(torch.randn(8, 1, 3, 3), torch.randn(8, 1, 3, 3))
        >>> len(figure.axes)
        3
    """
    old, new = (w.detach().float().cpu().numpy() for w in (before, after))
    if old.shape != new.shape or not 3 <= old.ndim <= 5 or 0 in old.shape:
        raise HeadstartError(f"Weights of shapes {old.shape} and {new.shape} are not a convolution before and after.")
    if not (np.isfinite(old).all() and np.isfinite(new).all()):
        raise HeadstartError("The filters hold NaN or infinite values and cannot be drawn.")
    changed = (old != new).reshape(len(old), -1).any(1)
    shown = min(len(old), FILTERS)
    magnitudes = np.abs(np.stack([old[:shown], new[:shown]]))
    scale = float(magnitudes.max() if old.ndim == 3 else np.percentile(magnitudes, _CLIP)) or 1.0
    if old.ndim == 3:
        figure = _lines(old[:shown], new[:shown], scale)
    else:
        figure = _images(old[:shown], new[:shown], changed[:shown], scale)
    more = f", the first {shown} of {len(old)}" if shown < len(old) else ""
    rest = f", the first {CHANNELS} of {old.shape[1]} channels" if old.shape[1] > CHANNELS else ""
    slice_ = ", centre slices" if old.ndim == 5 else ""
    kernel = "×".join(map(str, old.shape[2:]))
    what = f"{len(old)} filter{'s' * (len(old) > 1)} of {old.shape[1]}×{kernel}"
    text = f"{what}{more}{rest}{slice_}; {int(changed.sum())} changed"
    figure.suptitle(text, fontsize=10)
    return figure


def _images(old: Any, new: Any, changed: Any, scale: float) -> Figure:
    colour = old.shape[1] == 3
    pictures = [tiles(w, scale if colour else None) for w in (old, new)]
    columns = min(len(old), _COLUMNS if pictures[0].shape[2] < 2 * pictures[0].shape[1] else _COLUMNS // 2)
    rows = -(-len(old) // columns)
    tall, wide = pictures[0].shape[1] + _GAP, pictures[0].shape[2] + _GAP
    height = min(12.0, rows * tall * min(3.6 / (columns * wide), 1.5 / tall))  # inches; one filter at most 1.5 high
    figure = Figure(figsize=(8.6, height + 0.9), layout="constrained")
    axes = figure.subplots(1, 2, gridspec_kw={"wspace": 0.08})
    image: Any = None
    for axis, title, shown in zip(axes, ("before", "after"), pictures, strict=True):
        canvas = np.full((rows * tall, columns * wide, *shown.shape[3:]), 0.0 if colour else np.nan)
        for i, tile in enumerate(shown):
            top, left = i // columns * tall + _GAP // 2, i % columns * wide + _GAP // 2
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            if changed[i] and title == "after" and not changed.all():
                corner, size = (left - 2.5, top - 2.5), (tile.shape[1] + 4, tile.shape[0] + 4)
                axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor="black", linewidth=0.8))
        image = axis.imshow(canvas, cmap=DIVERGING, vmin=-scale, vmax=scale, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    if not colour:
        figure.colorbar(image, ax=list(axes), shrink=0.8, aspect=30, extend="both", label="weight")
    return figure


def tiles(filters: Any, scale: float | None) -> Any:
    """One picture per filter, ``(N, height, width)``, or ``(N, height, width, 4)`` in colour."""
    if filters.ndim == 5:
        filters = filters[:, :, filters.shape[2] // 2]
    factor = max(2, 24 // max(filters.shape[2:]))
    large = filters.repeat(factor, axis=2).repeat(factor, axis=3)
    if scale is not None:
        rgb = np.clip(0.5 + 0.5 * large.transpose(0, 2, 3, 1) / scale, 0, 1)
        return np.concatenate([rgb, np.ones_like(rgb[..., :1])], axis=3)
    gap = np.full((*large.shape[:3], 4), np.nan)
    shown = range(min(large.shape[1], CHANNELS))
    parts = [part for c in shown for part in (gap[:, c], large[:, c])]
    return np.concatenate(parts[1:], axis=2)


def _lines(old: Any, new: Any, scale: float) -> Figure:
    """One small plot per filter: gray before, blue after."""
    columns = min(len(old), _COLUMNS)
    rows = -(-len(old) // columns)
    figure = Figure(figsize=(1.1 * columns + 0.6, 0.9 * rows + 1.0), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    taps = np.arange(old.shape[2])
    for i, axis in enumerate(axes):
        axis.set_axis_off()
        if i >= len(old):
            continue
        axis.axhline(0, color="#cccccc", linewidth=0.6)
        axis.set_ylim(-1.08 * scale, 1.08 * scale)
        for c in range(min(old.shape[1], CHANNELS)):
            first = i == 0 and c == 0
            axis.plot(taps, old[i, c], color=_BEFORE, linewidth=1.0, label="before" if first else None)
            axis.plot(taps, new[i, c], color=_AFTER, linewidth=1.4, label="after" if first else None)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def plot_diagnosis(diagnosis: Diagnosis) -> Figure:
    """Draw what a diagnosis measured over depth.

    Args:
        diagnosis: With data.

    Returns:
        Above, each layer's output deviation and how much of it tells samples apart; below, its gradient/weight
        ratio. Both on a logarithmic scale.

    Raises:
        HeadstartError: The diagnosis had no data.
    """
    rows = [r for r in diagnosis.rows if r.output_std is not None]
    if not rows:
        raise HeadstartError("The diagnosis had no data, so there are no signals to plot.", remedy="Pass data to it.")
    depth = np.arange(1, len(rows) + 1)
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _curve(above, depth, [r.output_std for r in rows], "output std", _BEFORE, "s")
    _curve(above, depth, [r.across_sample_std for r in rows], "of it across samples", _AFTER, "o")
    above.set_ylabel("deviation")
    above.legend(frameon=False, fontsize=9)
    _curve(below, depth, [r.gradient_ratio for r in rows], "gradient / weight", _AFTER, "o")
    below.set_ylabel("gradient / weight")
    below.set_xlabel("layer, in the order data reaches it")
    for axis in (above, below):
        _logarithmic(axis)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(diagnosis.title, fontsize=10)
    return figure


def plot_rates(before: Diagnosis, after: Diagnosis | None = None) -> Figure:
    """Draw how fast each layer would learn relative to its size, as in the paper on data-dependent initialization.

    Args:
        before: With gradients.
        after: Of the same model later, beside it.

    Returns:
        One point per layer, its gradient over its weight, with a bar as long as the coefficient of variation over
        its input channels; on a logarithmic scale. The legend has the spread over layers.

    Raises:
        HeadstartError: A diagnosis had no gradients.
    """
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    axis = figure.subplots()
    shown = [(before, "before" if after else "rate", _BEFORE if after else _AFTER, 0.0)]
    shown += [(after, "after", _AFTER, 0.15)] if after else []
    for diagnosis, label, colour, shift in shown:
        spread = diagnosis.rate_spread
        if spread is None:
            raise HeadstartError("The diagnosis has no gradients, so there are no rates to plot.", remedy="Pass data.")
        rows = [(i, r) for i, r in enumerate(diagnosis.rows, 1) if r.gradient_ratio]
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
    figure.suptitle(f"{before.title}: how fast layers learn", fontsize=10)
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


def sample_curves(curves: SampleCurves) -> Figure:
    """Draw a start by training over its epochs: loss (logarithmic where it varies tenfold) and accuracy.

    Args:
        curves: From `headstart.sample_curves`.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    colours = {"sample": "#b3541e", "training": _AFTER, "validation": "#2e7d4f"}
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
    axes.plot([], [], "--", color=_BEFORE, label="batch norm by the batch")
    axes.legend(frameon=False, fontsize=8)
    return figure
