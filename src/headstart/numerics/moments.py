"""Per-channel moments of layer outputs, and the numbers that reports and diagnoses show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_VALUES = 8  # per channel, below which a variance says next to nothing
ACROSS_SAMPLES = 16
PIECE = 2**20
LONG = 32


@dataclass
class Moments:
    """Mean and variance of every channel over samples and positions.

    Attributes:
        mean: Shape ``(channels,)``, in working precision (float32 or float64, or complex of those).
        var: Population variance, same shape; of complex values that of both parts together, ``E |y - mean|²``.
        count: Values per channel.
    """

    mean: Tensor
    var: Tensor
    count: int

    def affine(self, scale: Tensor, shift: Tensor) -> Moments:
        """The moments after ``y -> scale * y + shift`` per channel."""
        return Moments(self.mean * scale + shift, self.var * scale**2, self.count)

    @property
    def total_mean(self) -> float:
        """Mean over all channels; its size if it is complex."""
        mean = self.mean.mean()
        return float(mean.abs() if mean.is_complex() else mean)

    @property
    def total_var(self) -> float:
        """Variance over everything, channels included."""
        return float((self.var + (self.mean - self.mean.mean()).abs() ** 2).mean())

    @property
    def total_std(self) -> float:
        """Standard deviation over everything, channels included."""
        return math.sqrt(max(self.total_var, 0.0))


def pooled(parts: Sequence[Moments]) -> Moments:
    """Moments of several batches together; their order does not matter.

    Example:
        >>> a, b = (channel_moments(torch.tensor(rows), axis=1) for rows in ([[1.0], [3.0]], [[5.0]]))
        >>> both = pooled([a, b])
        >>> both.mean.tolist(), round(float(both.var), 4), both.count
        ([3.0], 2.6667, 3)
    """
    count = sum(part.count for part in parts)
    shares = [part.count / count for part in parts]
    wide = torch.complex128 if parts[0].mean.is_complex() else torch.float64
    means = torch.stack([part.mean.to(wide) for part in parts])
    weights = torch.tensor(shares, dtype=torch.float64, device=means.device)[:, None]
    mean = (weights * means).sum(0)
    var = (weights * (torch.stack([part.var.double() for part in parts]) + (means - mean).abs() ** 2)).sum(0)
    return Moments(mean.to(parts[0].mean.dtype), var.to(parts[0].var.dtype), count)


def rows(output: Tensor, axis: int) -> Tensor:
    """View ``output`` as ``(samples, channels, positions)``, or ``(values, channels)`` where channels lie innermost."""
    moved = output.movedim(axis, -1)
    if axis == output.dim() - 1 or moved.is_contiguous():  # linear layers, and channels-last memory
        return moved.reshape(-1, output.shape[axis])
    return output.flatten(axis + 1).flatten(0, axis - 1) if axis > 0 else output.flatten(1).unsqueeze(0)


def channel_moments(output: Tensor, axis: int) -> Moments:
    """Mean and population variance per channel, in two passes over the data and without a copy of it.

    The squares are taken around a pilot mean where that matters, so a channel whose mean is far larger
    than its deviation loses no digits.

    Args:
        output: Any shape; low precision is widened first.
        axis: The channel axis.

    Example:
        >>> m = channel_moments(torch.tensor([[1.0, 10.0], [3.0, 10.0]]), axis=1)
        >>> m.mean.tolist(), m.var.round(decimals=5).tolist(), m.count
        ([2.0, 10.0], [1.0, 0.0], 2)
    """
    if output.is_complex():
        parts = [channel_moments(part, axis) for part in torch.view_as_real(output).unbind(-1)]
        return Moments(torch.complex(parts[0].mean, parts[1].mean), parts[0].var + parts[1].var, parts[0].count)
    wide = output if output.dtype in (torch.float32, torch.float64) else output.float()
    view = rows(wide, axis)
    channels = output.shape[axis]
    count = max(1, output.numel() // max(channels, 1))
    total, squares = _totals(view)
    mean, square = total / count, squares / count
    var = square - mean**2
    if not bool((var >= 1e-3 * square).all()) or not bool(
        torch.isfinite(square).all()
    ):  # cancellation: take the squares around the mean instead
        centred = view - mean.to(view.dtype).reshape(-1, *[1] * (view.dim() - 2))
        rest, squares = _totals(centred)  # what the rounding of the mean left
        var = squares / count - (rest / count) ** 2
    return Moments(mean.to(wide.dtype), var.clamp_min(0).to(wide.dtype), count)


def _totals(view: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and sums of squares per channel: in the data's precision along one axis, in float64 over the rest."""
    if view.dim() == 3 and view.shape[2] >= LONG:
        norms = torch.linalg.vector_norm(view, dim=2).double()
        return view.sum(2).double().sum(0), norms.square().sum(0)
    # Over short rows, or across them, norms are slow in torch: square piece by piece instead.
    pieces = view.split(max(1, PIECE // max(1, view[0].numel())))
    total = torch.stack([piece.sum(0).double() for piece in pieces]).sum(0)
    squares = torch.stack([piece.square().sum(0).double() for piece in pieces]).sum(0)
    return (total.sum(1), squares.sum(1)) if view.dim() == 3 else (total, squares)


def across_sample_std(output: Tensor, samples: int = ACROSS_SAMPLES) -> float:
    """Standard deviation between samples at the same channel and place, averaged as a root mean square.

    The total deviation of a layer can look healthy while it only mirrors biases: what tells inputs apart
    is the deviation *across samples*. It is estimated from disjoint pairs, ``E[(a - b)^2] / 2``: unbiased,
    exactly 0 when all samples look alike, and without the rounding of a mean.

    Args:
        output: Batch first.
        samples: At most so many samples are paired.

    Returns:
        The deviation, NaN for fewer than two samples.

    Example:
        >>> across_sample_std(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        1.0
    """
    pairs = min(samples, len(output)) // 2
    if pairs == 0:
        return float("nan")
    if output.is_complex():  # a difference of both parts
        return math.sqrt(2) * across_sample_std(torch.view_as_real(output), samples)
    difference = output[:pairs] - output[pairs : 2 * pairs]
    if difference.dtype not in (torch.float32, torch.float64):
        difference = difference.float()
    return float(torch.linalg.vector_norm(difference).double() / math.sqrt(2 * difference.numel()))
