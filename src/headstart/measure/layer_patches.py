"""Layer patches: the vectors ``x`` in ``output = W x + b``, for any layer, at any place of its output.

Along each axis, a table says which input position every tap of the kernel reads at every output place. Stride,
padding of any mode, dilation and transposed convolutions are all handled by these tables, and nowhere else.
Patches are gathered only at chosen places: the windows of a whole batch are never in memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headstart.measure.patches import batched
from headstart.model.weights import Layer, working_dtype

Integers = NDArray[np.int64]
BLOCK = 2**20  # values that are gathered at a time


def taps(layer: Layer, axis: int, size: int) -> Integers:
    """Which input position each tap of the kernel reads at each output place, along one axis.

    Args:
        layer: A convolution or transposed convolution.
        axis: The axis of the kernel, from 0.
        size: The size of the input along that axis.

    Returns:
        ``(outputs, kernel)``; -1 where a tap reads nothing (zero padding, gaps of a stride).

    Cost: computed in Python, without any device.

    Example:
        >>> taps(Layer("", torch.nn.Conv1d(1, 1, 3, padding=1)), 0, 4).tolist()
        [[-1, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, -1]]
    """
    module, kernel = layer.module, layer.kernel[axis]
    stride, dilation = module.stride[axis], module.dilation[axis]
    tap = np.arange(kernel) * dilation
    if layer.kind == "transposed":
        padding, extra = module.padding[axis], module.output_padding[axis]
        outputs = (size - 1) * stride - 2 * padding + (kernel - 1) * dilation + extra + 1
        lands = np.arange(outputs)[:, None] + padding - tap  # input i lands on i * stride
        place: Integers = lands // stride
        return np.where((lands % stride == 0) & (place >= 0) & (place < size), place, -1)
    last = 2 * (len(layer.kernel) - 1 - axis)  # torch lists the last axis first
    before, after = module._reversed_padding_repeated_twice[last : last + 2]
    outputs = (size + before + after - (kernel - 1) * dilation - 1) // stride + 1
    place = np.arange(outputs)[:, None] * stride + tap - before
    if module.padding_mode == "circular":
        return place % size
    if module.padding_mode == "replicate":
        return place.clip(0, size - 1)
    if module.padding_mode == "reflect":
        return (size - 1) - abs((size - 1) - abs(place))
    return np.where((place >= 0) & (place < size), place, -1)


class LayerPatches:
    """The patches that the filters of one layer see of one input.

    Places are numbered as the rows of ``output.movedim(channel_axis, -1).reshape(-1, out_channels)``; ``len`` is
    their number.

    Args:
        layer: Any weight layer.
        value: Its input, with or without a batch axis.
        counted: Which places of the output count, in the shape of the output without its channels; all by default.

    Example:
        >>> conv, x = torch.nn.Conv2d(2, 5, 3, stride=2, padding=1, bias=False), torch.randn(4, 2, 7, 7)
        >>> patches = LayerPatches(Layer("", conv), x).take(np.array([0, 17]))
        >>> out = conv(x).movedim(1, -1).reshape(-1, 5)
        >>> torch.allclose(patches @ conv.weight.flatten(1).T, out[[0, 17]], atol=1e-5)
        True
    """

    def __init__(self, layer: Layer, value: Tensor, counted: Tensor | None = None) -> None:
        self.layer = layer
        self._value = value.reshape(-1, value.shape[-1]) if layer.kind == "linear" else batched(value, layer)
        sizes = self._value.shape[2:]
        self._hides = layer.kind == "transposed" or (layer.kind == "conv" and layer.module.padding_mode == "zeros")
        self._tables = [taps(layer, axis, size) for axis, size in enumerate(sizes)]
        self._counted = None if counted is None else np.flatnonzero(counted.cpu().numpy())

    def __len__(self) -> int:
        if self._counted is not None:
            return len(self._counted)
        return len(self._value) * math.prod(len(table) for table in self._tables)

    def spread(self, count: int, generator: torch.Generator) -> Integers:
        """Draw places at random, one from each of ``count`` equal stretches, so that every sample contributes equally.

        All places are equally likely. Where a stretch ends inside a place, two stretches may draw that place.

        Args:
            count: How many to draw; all places if there are fewer.
            generator: Draws them, on the CPU.

        Returns:
            Numbers of places, in rising order.
        """
        total = len(self)
        if count >= total:
            return np.arange(total)
        within = np.empty(count)
        torch.from_numpy(within).uniform_(generator=generator)
        return ((np.arange(count) + within) * (total / count)).astype(np.int64).clip(max=total - 1)

    def take(self, places: Integers, group: int = 0) -> Tensor:
        """Gather the patches at some places.

        Args:
            places: Their numbers.
            group: The group whose channels are taken.

        Returns:
            ``(places, in/groups * kernel)`` in float32 or better, on the input's device.
        """
        size = self.layer.in_channels // self.layer.groups
        channels = self._value if self.layer.groups == 1 else self._value.narrow(1, group * size, size)
        rest = places if self._counted is None else self._counted[places]
        if not self._tables:
            return channels.index_select(0, self._there(rest)).to(working_dtype(channels.dtype))
        read, hidden, step = np.zeros((len(rest), 1), np.int64), np.zeros((), bool), 1
        for table, space in zip(reversed(self._tables), reversed(channels.shape[2:]), strict=True):
            tap = table[rest % len(table)][:, :, None]  # of this axis, before those of the axes behind it
            read = (tap.clip(0) * step + read[:, None]).reshape(len(rest), -1)
            hidden = ((tap < 0) | hidden).reshape(len(rest), -1)[:, None] if self._hides else hidden
            rest, step = rest // len(table), step * space
        sample, place = self._there(rest[:, None, None]), self._there(read[:, None])
        taken = channels.flatten(2)[sample, self._there(np.arange(size)[:, None]), place]  # (places, in/groups, taps)
        if hidden.any():
            taken.masked_fill_(self._there(hidden), 0)
        return taken.view(len(places), -1).to(working_dtype(taken.dtype))

    def _there(self, numbers: NDArray[Any]) -> Tensor:
        return torch.from_numpy(numbers).to(self._value.device, non_blocking=True)

    def blocks(self, places: Integers) -> list[Integers]:
        """Split places into pieces whose patches fit into memory."""
        step = max(1, BLOCK // math.prod(self.layer.shape[1:]))
        return [places[start : start + step] for start in range(0, len(places), step)]


def mean_patch(layer: Layer, value: Tensor, counted: Tensor | None = None) -> Tensor:
    """The mean over all samples and places of the patch that the filters of each group see.

    Args:
        layer: Any weight layer.
        value: Its input.
        counted: Which places of the output count; all by default.

    Returns:
        ``(groups, in/groups * kernel)`` in float32 or better.
    """
    dtype = working_dtype(value.dtype)
    if counted is not None and layer.kind != "linear":
        patches = LayerPatches(layer, value, counted)
        pieces = patches.blocks(np.arange(len(patches)))
        sums = [torch.stack([patches.take(p, g).sum(0) for p in pieces]).sum(0) for g in range(layer.groups)]
        return torch.stack(sums) / len(patches)
    if layer.kind == "linear":
        return value.reshape(-1, value.shape[-1]).mean(0, keepdim=True, dtype=dtype)
    mean = batched(value, layer).mean(0, dtype=dtype)  # (in, *space)
    outputs = 1
    for axis, size in enumerate(mean.shape[1:]):
        table = taps(layer, axis, size)  # (outputs, kernel)
        reads = np.stack([np.bincount(tap[tap >= 0], minlength=size) for tap in table.T])  # how often each tap does
        often = torch.from_numpy(reads).to(mean.device, dtype, non_blocking=True)
        mean = torch.tensordot(mean, often, dims=([1], [1]))  # the next axis comes first, kernels last
        outputs *= len(table)
    return (mean / outputs).reshape(layer.groups, -1)
