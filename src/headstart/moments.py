"""Per-channel moments of layer outputs, and the numbers that reports and diagnoses show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ACROSS_SAMPLES = 16
PIECE = 2**20


@dataclass
class Moments:
    """Mean and variance of every channel over samples and positions.

    Attributes:
        mean: Shape ``(channels,)``, in working precision (float32 or float64).
        var: Population variance, same shape.
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
        """Mean over all channels."""
        return float(self.mean.mean())

    @property
    def total_var(self) -> float:
        """Variance over everything, channels included."""
        return float((self.var + (self.mean - self.mean.mean()) ** 2).mean())

    @property
    def total_std(self) -> float:
        """Standard deviation over everything, channels included."""
        return math.sqrt(max(self.total_var, 0.0))


def rows(output: Tensor, axis: int) -> tuple[Tensor, tuple[int, ...]]:
    """View ``output`` so that reductions run over long contiguous stretches.

    Returns:
        A view and the axes to reduce; the remaining axis is the channel.
    """
    last = output.dim() - 1
    if axis == last:
        return output.reshape(-1, output.shape[-1]), (0,)
    moved = output.movedim(axis, -1)
    if moved.is_contiguous():  # channels-last memory
        return moved.reshape(-1, output.shape[axis]), (0,)
    return output.flatten(axis + 1).flatten(0, axis - 1) if axis > 1 else output.flatten(axis + 1), tuple(
        i for i in range(2 if axis == 0 else 3) if i != min(axis, 1)
    )


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
    wide = output if output.dtype in (torch.float32, torch.float64) else output.float()
    view, axes = rows(wide, axis)
    channels = output.shape[axis]
    count = max(1, output.numel() // max(channels, 1))
    mean = _sum(view, axes) / count
    square = _sum_of_squares(view, axes) / count
    var = square - mean**2
    if bool((var < 1e-3 * square).any()):  # cancellation: take the squares around the mean instead
        shape = [1] * view.dim()
        shape[next(i for i in range(view.dim()) if i not in axes)] = channels
        centred = view - mean.to(view.dtype).reshape(shape)
        rest = _sum(centred, axes) / count  # the rounding of the mean itself
        var = _sum_of_squares(centred, axes) / count - rest**2
    return Moments(mean.to(wide.dtype), var.clamp_min(0).to(wide.dtype), count)


def _sum(view: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Sum in the data's precision along the fast axis, in float64 over the rest."""
    fast = view.sum(axes[-1])
    rest = list(axes[:-1])
    return fast.double().sum(rest) if rest else fast.double()


def _sum_of_squares(view: Tensor, axes: tuple[int, ...]) -> Tensor:
    if axes == (0,):  # norms along a strided axis are slow in torch: square piece by piece instead
        pieces = view.split(max(1, PIECE // max(1, view.shape[1])))
        return torch.stack([piece.square().sum(0).double() for piece in pieces]).sum(0)
    fast = torch.linalg.vector_norm(view, dim=axes[-1]).double() ** 2
    rest = list(axes[:-1])
    return fast.sum(rest) if rest else fast


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
    difference = output[:pairs] - output[pairs : 2 * pairs]
    if difference.dtype not in (torch.float32, torch.float64):
        difference = difference.float()
    return float(torch.linalg.vector_norm(difference).double() / math.sqrt(2 * difference.numel()))
