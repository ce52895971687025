"""Per-channel moments of layer outputs, and the numbers that reports and diagnoses show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import mse_loss

MIN_VALUES = 8  # per channel, below which a variance says next to nothing
ACROSS_SAMPLES = 16
PIECE = 2**20


@dataclass
class Moments:
    """Mean and variance of every channel over samples and positions.

    Attributes:
        mean: Shape ``(channels,)``, in working precision (float32 or float64, or complex of those).
        var: Population variance, same shape; for complex values of both parts together, ``E |y - mean|²``.
        count: Values per channel.
    """

    mean: Tensor
    var: Tensor
    count: int

    def affine(self, scale: Tensor, shift: Tensor) -> Moments:
        """The moments after ``y -> scale * y + shift`` per channel."""
        return Moments(torch.addcmul(shift, self.mean, scale), self.var * scale * scale, self.count)

    @property
    def total_mean(self) -> float:
        """Mean over all channels; its magnitude if it is complex."""
        mean = self.mean.mean()
        return float(mean.abs() if mean.is_complex() else mean)

    @property
    def total_std(self) -> float:
        """Standard deviation over everything, channels included."""
        kind = torch.complex128 if self.mean.is_complex() else torch.float64
        return totals(self.mean.to(kind).cpu().numpy(), self.var.double().cpu().numpy())[1]


def totals(mean: NDArray[Any], var: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation over everything, from the mean and variance of each channel."""
    with np.errstate(over="ignore", invalid="ignore"):
        middle = mean.mean()
        variance = float((var + np.abs(mean - middle) ** 2).mean())
    size = float(np.abs(middle)) if np.iscomplexobj(middle) else float(middle)
    return size, variance if math.isnan(variance) else math.sqrt(max(variance, 0.0))


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
    if axis == output.dim() - 1:  # linear layers
        return output.reshape(-1, output.shape[axis])
    if not output.is_contiguous() and (moved := output.movedim(axis, -1)).is_contiguous():  # channels-last memory
        return moved.reshape(-1, output.shape[axis])
    return output.flatten(axis + 1).flatten(0, axis - 1) if axis > 0 else output.flatten(1).unsqueeze(0)


def channel_moments(output: Tensor, axis: int) -> Moments:
    """Mean and population variance per channel; nothing is read back from the device.

    On accelerators torch computes both in one pass. On the CPU, where that is slow, they are computed from differences
    to the first value of each channel: so a mean far above the deviation loses no digits, and a constant channel has
    variance 0.

    Args:
        output: Any shape; low precision is widened first.
        axis: The channel axis.

    Example:
        >>> m = channel_moments(torch.tensor([[1.0, 10.0], [3.0, 10.0]]), axis=1)
        >>> m.mean.tolist(), m.var.tolist(), m.count
        ([2.0, 10.0], [1.0, 0.0], 2)
    """
    if output.is_complex():
        parts = [channel_moments(part, axis) for part in torch.view_as_real(output).unbind(-1)]
        return Moments(torch.complex(parts[0].mean, parts[1].mean), parts[0].var + parts[1].var, parts[0].count)
    wide = output if output.dtype in (torch.float32, torch.float64) else output.float()
    channels = output.shape[axis]
    count = max(1, output.numel() // max(channels, 1))
    dims = [d for d in range(output.dim()) if d != axis % output.dim()]
    if wide.device.type == "cuda" and dims:
        var, mean = torch.var_mean(wide, dims, correction=0)
        return Moments(mean, var, count)
    if output.numel() == 0:
        return Moments(wide.new_zeros(channels), wide.new_zeros(channels), count)
    # The first value of every channel, and the same once more beside all other axes.
    first = wide.as_strided((channels,), (wide.stride(axis),))
    behind = output.dim() - 1 - axis % output.dim()
    beside = wide.as_strided((channels, *[1] * behind), (wide.stride(axis), *[0] * behind)) if behind else first
    mean, square = _means(wide, beside, dims, count)
    var = torch.addcmul(square, mean, mean, value=-1).clamp_min_(0)
    return Moments(mean + first, var, count)


def _means(values: Tensor, first: Tensor, dims: list[int], count: int) -> tuple[Tensor, Tensor]:
    """Means of the differences to ``first`` and of their squares, in pieces that fit into a processor's cache."""
    step = max(1, PIECE // max(1, math.prod(values.shape[1:])))
    if not dims or step >= len(values) or 0 not in dims:
        apart = values - first
        return (apart.mean(dims), apart.square_().mean(dims)) if dims else (apart, apart.square())
    room = torch.empty_like(values[:step])
    totals, squares = [], []
    for piece in values.split(step):
        apart = torch.sub(piece, first, out=room[: len(piece)])
        totals.append(apart.sum(dims))
        squares.append(apart.square_().sum(dims))
    # In float64, since there may be many pieces.
    mean, square = (torch.stack(part).sum(0, dtype=torch.float64).div_(count) for part in (totals, squares))
    return mean.to(values.dtype), square.to(values.dtype)


def across_sample_std(output: Tensor, samples: int = ACROSS_SAMPLES) -> float:
    """Standard deviation between samples at the same channel and place, as a root mean square over these.

    The total deviation of a layer can look healthy although it only reflects biases. What distinguishes inputs
    is the deviation *across samples*. It is estimated from disjoint pairs, ``E[(a - b)^2] / 2``: unbiased,
    exactly 0 when all samples look alike, and without the rounding of a mean.

    Args:
        output: Batch first.
        samples: At most this many samples are paired.

    Returns:
        The deviation, NaN for fewer than two samples.

    Example:
        >>> across_sample_std(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        1.0
    """
    square = across_sample_square(output, samples)
    return math.nan if square is None else math.sqrt(float(square) / 2)


def across_sample_square(output: Tensor, samples: int = ACROSS_SAMPLES) -> Tensor | None:
    """Twice the square of :func:`across_sample_std`, still on the device; None for fewer than two samples."""
    pairs = min(samples, len(output)) // 2
    if pairs == 0:
        return None
    if output.is_complex():  # a difference of both parts
        both = across_sample_square(torch.view_as_real(output), samples)
        return None if both is None else 2 * both
    some, others, *_ = output.split(pairs)
    if output.dtype not in (torch.float32, torch.float64):
        some, others = some.float(), others.float()
    return mse_loss(some, others)
