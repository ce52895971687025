"""Pictures (extra ``plot``): filters before and after, and a diagnosis over depth. Figures, never pyplot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from headstart.errors import HeadstartError

if TYPE_CHECKING:
    pass

FILTERS = 64  # at most so many filters are drawn
CHANNELS = 4  # of a filter with other than 1 or 3 channels
_COLUMNS = 8
_GAP = 10  # pixels between filters, which are about 24 wide
_CLIP = 99.5  # percentile of magnitudes that gets full colour: one large weight must not pale the rest
DIVERGING = "RdBu_r"  # readable without telling red from green
BEFORE, AFTER = "#8a8a8a", "#1f5fa8"


def filter_pair(before: Tensor, after: Tensor) -> Figure:
    """Draw a convolution's filters before and after, on one scale.

    Args:
        before: ``(out, in/groups, *kernel)``, in one, two or three dimensions.
        after: Same shape.

    Returns:
        Two panels of filters in the same places. One channel is drawn from blue (negative) over white (zero)
        to red (positive); three channels as RGB around mid gray; of any other number the first four side by side.
        One-dimensional kernels are drawn as lines, one per channel; of three-dimensional ones the centre slice. Changed
        filters have a frame.

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
            axis.plot(taps, old[i, c], color=BEFORE, linewidth=1.0, label="before" if first else None)
            axis.plot(taps, new[i, c], color=AFTER, linewidth=1.4, label="after" if first else None)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure
