"""Layer patches: the vectors ``x`` with ``output = W x + b``, for any layer, at any place of its output.

Along each axis, a table says which input position every tap of the kernel reads at every output place. Stride,
padding of any mode, dilation and transposed convolutions are all in those tables, so nothing else here knows of
them. Patches are gathered at chosen places only: the windows of a whole batch are never held.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from headstart.measure.patches import batched
from headstart.model.weights import Layer, working_dtype

BLOCK = 2**20  # values that are gathered at a time


def taps(layer: Layer, axis: int, size: int) -> Tensor:
    """Which input position each tap of the kernel reads at each output place, along one axis.

    Args:
        layer: A convolution or transposed convolution.
        axis: Of the kernel, from 0.
        size: Of the input along that axis.

    Returns:
        ``(outputs, kernel)``; -1 where a tap reads nothing (zero padding, gaps of a stride).

    Example:
        >>> taps(Layer("", torch.nn.Conv1d(1, 1, 3, padding=1)), 0, 4).tolist()
        [[-1, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, -1]]
    """
    module, kernel = layer.module, layer.kernel[axis]
    stride, dilation = module.stride[axis], module.dilation[axis]
    tap = torch.arange(kernel) * dilation
    if layer.kind == "transposed":
        padding, extra = module.padding[axis], module.output_padding[axis]
        outputs = (size - 1) * stride - 2 * padding + (kernel - 1) * dilation + extra + 1
        lands = torch.arange(outputs).unsqueeze(1) + padding - tap  # input i lands on i * stride
        place = lands.div(stride, rounding_mode="floor")
        return torch.where((lands % stride == 0) & (place >= 0) & (place < size), place, -1)
    last = 2 * (len(layer.kernel) - 1 - axis)  # torch lists the last axis first
    before, after = module._reversed_padding_repeated_twice[last : last + 2]
    outputs = (size + before + after - (kernel - 1) * dilation - 1) // stride + 1
    place = torch.arange(outputs).unsqueeze(1) * stride + tap - before
    if module.padding_mode == "circular":
        return place.remainder(size)
    if module.padding_mode == "replicate":
        return place.clamp(0, size - 1)
    if module.padding_mode == "reflect":
        return (size - 1) - ((size - 1) - place.abs()).abs()
    return torch.where((place >= 0) & (place < size), place, -1)


class LayerPatches:
    """What the filters of one layer see of one input.

    Places are numbered as the rows of ``output.movedim(channel_axis, -1).reshape(-1, out_channels)``; ``len`` is
    their number.

    Args:
        layer: Any weight layer.
        value: Its input, with or without a batch axis.
        counted: Which places of the output there are, in the shape of the output without its channels; all by default.

    Example:
        >>> conv, x = torch.nn.Conv2d(2, 5, 3, stride=2, padding=1, bias=False), torch.randn(4, 2, 7, 7)
        >>> patches = LayerPatches(Layer("", conv), x).take(torch.tensor([0, 17]))
        >>> out = conv(x).movedim(1, -1).reshape(-1, 5)
        >>> torch.allclose(patches @ conv.weight.flatten(1).T, out[[0, 17]], atol=1e-5)
        True
    """

    def __init__(self, layer: Layer, value: Tensor, counted: Tensor | None = None) -> None:
        self.layer = layer
        self._value = value.reshape(-1, value.shape[-1]) if layer.kind == "linear" else batched(value, layer)
        sizes = self._value.shape[2:]
        self._hides = layer.kind == "transposed" or (layer.kind == "conv" and layer.module.padding_mode == "zeros")
        self._tables = [taps(layer, axis, size).to(value.device) for axis, size in enumerate(sizes)]
        self._counted = None if counted is None else counted.flatten().nonzero()[:, 0]

    def __len__(self) -> int:
        if self._counted is not None:
            return len(self._counted)
        return len(self._value) * math.prod(len(table) for table in self._tables)

    def spread(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw places at random, one from each of ``count`` equal stretches, so that every sample gives its share.

        Each place is as likely as the others. Where a stretch ends inside a place, neighbours may share it.

        Args:
            count: How many; all places if there are no more.
            generator: Draws them, on the CPU.

        Returns:
            Ascending numbers of places.
        """
        total = len(self)
        if count >= total:
            return torch.arange(total)
        within = torch.rand(count, generator=generator, dtype=torch.float64)
        return ((torch.arange(count) + within) * (total / count)).long().clamp_(max=total - 1)

    def take(self, places: Tensor, group: int = 0) -> Tensor:
        """Gather the patches at some places.

        Args:
            places: Their numbers.
            group: Whose channels.

        Returns:
            ``(places, in/groups * kernel)`` in float32 or better, on the input's device.
        """
        size = self.layer.in_channels // self.layer.groups
        channels = self._value[:, group * size : (group + 1) * size]
        rest = places.to(channels.device)
        if self._counted is not None:
            rest = self._counted[rest]
        hidden = torch.zeros((), dtype=torch.bool, device=channels.device)
        reads: list[Tensor] = []
        for axis, table in reversed(list(enumerate(self._tables))):
            shape = [1] * len(self._tables)
            shape[axis] = -1
            read = table[rest % len(table)].reshape(len(rest), *shape)
            hidden = hidden | (read < 0)
            reads.insert(0, read.clamp_min(0))
            rest = rest.div(len(table), rounding_mode="floor")
        sample = rest.reshape(-1, *[1] * len(reads))
        index: Any = (sample, slice(None), *reads)
        taken = channels[index]  # (places, *kernel, in/groups)
        if self._hides:
            taken.masked_fill_(hidden.unsqueeze(-1), 0)
        return taken.movedim(-1, 1).reshape(len(places), -1).to(working_dtype(taken.dtype))

    def blocks(self, places: Tensor) -> tuple[Tensor, ...]:
        """Split places into pieces whose patches are few enough to be gathered at a time."""
        return places.split(max(1, BLOCK // math.prod(self.layer.shape[1:])))


def mean_patch(layer: Layer, value: Tensor, counted: Tensor | None = None) -> Tensor:
    """The mean patch over all samples and places that the filters of each group see.

    Args:
        layer: Any weight layer.
        value: Its input.
        counted: Which places of the output there are; all by default.

    Returns:
        ``(groups, in/groups * kernel)`` in float32 or better.
    """
    dtype = working_dtype(value.dtype)
    if counted is not None and layer.kind != "linear":
        patches = LayerPatches(layer, value, counted)
        pieces = patches.blocks(torch.arange(len(patches)))
        sums = [torch.stack([patches.take(p, g).sum(0) for p in pieces]).sum(0) for g in range(layer.groups)]
        return torch.stack(sums) / len(patches)
    if layer.kind == "linear":
        return value.reshape(-1, value.shape[-1]).mean(0, keepdim=True, dtype=dtype)
    mean = batched(value, layer).mean(0, dtype=dtype)  # (in, *space)
    outputs = 1
    for axis, size in enumerate(mean.shape[1:]):
        table = taps(layer, axis, size).to(mean.device).T  # (kernel, outputs)
        reads = mean.new_zeros(len(table), size + 1)  # how often each tap reads each position; the last is nothing
        reads.scatter_add_(1, table.remainder(size + 1), reads.new_ones(()).expand(table.shape))
        mean = torch.tensordot(mean, reads[:, :size], dims=([1], [1]))  # the next axis comes first, kernels last
        outputs *= table.shape[1]
    return (mean / outputs).reshape(layer.groups, -1)
