"""Squared weight gradients of every sample, from a single backward pass over all samples.

The gradient of a layer's weight is a sum over samples: of products of the input and the gradient at the output.
With independent random gradients at the outputs, the samples' shares are independent with mean zero. So the expected
square of the sum is the sum of the expected squares. Squaring first omits the cross terms, which have mean zero
and cause nearly all of the noise.

The shares of all samples are one batched product of patches and gradients, unless the layer has few places and many
weights: then their lengths follow from products between places (Goodfellow 2015; Li, Tramèr, Liang and Hashimoto 2022),
and no share is held. Nothing is read before the pass is over.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headstart.measure.layer_patches import mean_patch
from headstart.measure.patches import batched
from headstart.measure.weight_products import by_input, columns, product, shares
from headstart.model.forward import by_layer, first_input
from headstart.model.hooks import hooked
from headstart.model.weights import Layer, from_canonical, to_canonical, working_dtype
from headstart.numerics.fetching import Values, fetch
from headstart.numerics.lengths import differences, lengths

_AGREE = 0.02  # of the size of the shares: how far their sum may be from the gradient that autograd finds
_GONE = 1e-3  # of the size of a sum of independent terms: what is smaller was taken out by a batch norm
_WIDE = 2**16  # values of a gradient up to which random ones are turned to right angles
_PROBES = 8  # directions along which gradients are compared
MEMORY = 2**27  # bytes of patches and of shares that are held at a time


@dataclass
class _Use:
    """One call of a layer: its input, its output, and the gradient at the output."""

    layer: Layer
    value: Tensor
    output: Tensor | None
    delta: Tensor | None = None


class SampleGradients:
    """Watches a forward and a backward pass, and sums the squared weight gradients of each sample.

    Args:
        layers: The layers to watch.
        size: Samples in the batch.
        coupled: Whether batch norms use the statistics of the batch. They remove the gradient's mean over the batch and
            its part along the output, in the same way for every sample. The shares are then those of an input without
            these parts.
        whole: Names of layers for which one sum over all input channels is enough.

    Attributes:
        squares: Layer name -> ``(samples, in_channels)`` sums of squares; ``(samples, 1)`` where channels are not kept
            apart. Where the samples cannot be kept apart, a single row: that of the summed gradient.
    """

    def __init__(
        self, layers: Iterable[Layer], size: int, coupled: bool = False, whole: Collection[str] = frozenset()
    ) -> None:
        self.squares: dict[str, Values] = {}
        self._layers, self._size, self._coupled, self._whole = list(layers), size, coupled, frozenset(whole)
        self._uses: dict[int, list[_Use]] = {}  # by the id of the weight: layers may share one
        self._weights: list[Tensor] = []  # kept alive, so that ids stay theirs
        self._lengths: dict[str, Tensor] = {}  # roots of the squares
        self._sums: dict[str, Tensor] = {}
        self._probes: dict[str, Tensor | None] = {}
        self._running = False

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Watch the layers while a forward pass runs; gradients are seen as long as its graph exists."""
        self._running = True
        try:
            with hooked(by_layer(self._layers), after=self._leave):
                yield
        finally:
            self._running = False

    def _leave(self, layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
        value = first_input(args, kwargs)
        if not isinstance(output, Tensor) or not output.requires_grad or output.is_complex():
            return
        use = _Use(layer, value, output.detach() if self._coupled else None)
        weight = layer.module.weight
        self._weights.append(weight)
        self._uses.setdefault(id(weight), []).append(use)
        output.register_hook(partial(self._arrived, id(weight), use))  # sees the output as it is now, before any ReLU_

    def _arrived(self, key: int, use: _Use, delta: Tensor) -> None:
        if self._running:  # the forward asks for gradients of its own, such as forces
            return
        use.delta = delta
        if key in self._uses and all(u.delta is not None for u in self._uses[key]):
            self._settle(key)

    @torch.no_grad()
    def _settle(self, key: int) -> None:
        uses = [use for use in self._uses.pop(key) if use.delta is not None]
        if not uses:
            return
        shares = _Shares(uses, self._size)
        for name, layer in {use.layer.name: use.layer for use in uses}.items():
            self._lengths[name] = shares.lengths(layer, name in self._whole)
            self._sums[name] = shares.total
            self._probes[name] = shares.probe

    @torch.no_grad()
    def finish(self, gradients: Mapping[str, Tensor | None]) -> list[str]:
        """Compare with autograd's gradient in the same pass, and use that one where the shares do not add up to it.

        That happens where a weight is used outside its layer, or where the layer's output is not a product with it.

        Args:
            gradients: The gradients of the effective weights, as the layers store them, by name.

        Returns:
            Names of the layers whose samples cannot be kept apart.
        """
        for key in list(self._uses):
            self._settle(key)
        found = {la.name: (la, g) for la in self._layers if (g := gradients.get(la.name)) is not None}
        told = [name for name in found if name in self._lengths]
        whole = [_along(la, g.to(self._sums[n].dtype), self._probes[n]) for n in told for la, g in [found[n]]]
        gaps = lengths(differences([self._sums[name] for name in told], whole))
        numbers = fetch([*gaps, *lengths(whole), *(self._lengths[name].flatten() for name in told)])
        agree: dict[str, Values] = {}
        for name, gap, size, roots in zip(told, *_thirds(numbers), strict=True):
            squares = np.square(roots).reshape(self._lengths[name].shape)
            if gap <= _AGREE * math.sqrt(squares.sum()) + _AGREE * size:
                agree[name] = squares
        rest = {name: part for name, part in found.items() if name not in agree}
        alone = fetch([_of_one(layer, gradient, name in self._whole) for name, (layer, gradient) in rest.items()])
        self.squares = {**agree, **{name: np.square(v)[None] for name, v in zip(rest, alone, strict=True)}}
        self._lengths, self._sums, self._probes = {}, {}, {}
        return [name for name in found if len(self.squares[name]) == 1 < self._size]


def _thirds(numbers: list[Values]) -> list[list[Values]]:
    each = len(numbers) // 3
    return [numbers[:each], numbers[each : 2 * each], numbers[2 * each :]]


def _of_one(layer: Layer, gradient: Tensor, whole: bool) -> Tensor:
    wide = gradient.detach().to(working_dtype(gradient.dtype))
    if whole:
        return torch.linalg.vector_norm(wide).view(1)
    return by_input(layer, to_canonical(layer, wide)[None])[0]


class _Shares:
    """The samples' shares of the gradient of one weight, over all of its uses."""

    def __init__(self, uses: list[_Use], size: int) -> None:
        parts = [_split(use, size) for use in uses]
        if any(part is None for part in parts):
            parts = [_split(use, 1) for use in uses]
        self._parts = [part for part in parts if part is not None]
        self._layer = uses[0].layer
        self._removed = _removed(uses[0], size) if len(uses) == 1 and len(self._parts[0][0]) > 1 else None
        self.total = torch.zeros(())  # of the shares; multiplied by the probe, if there is one
        self.probe: Tensor | None = None

    def lengths(self, layer: Layer, whole: bool) -> Tensor:
        """Root of the sum of squares over all axes but samples and the input channels of ``layer``, or but samples."""
        value, delta = self._parts[0]
        if len(self._parts) == 1 and layer.kind == "linear" and self._removed is None and value.shape[1] == 1:
            # A product of two vectors: its length needs no matrix.
            self.total = delta[:, 0].T @ value[:, 0]
            sizes = torch.linalg.vector_norm(value, dim=2) if whole else value[:, 0].abs()
            return torch.linalg.vector_norm(delta, dim=2) * sizes
        places = len(self._parts) == 1 and _few_places(layer, delta)
        self.probe = _probe(layer).to(value) if places else None
        found, totals = [], []
        for start in range(0, len(value), step := self._step(layer, places)):
            block = slice(start, start + step)
            if self.probe is not None:
                roots, total = _by_places(layer, value[block], delta[block], self._removed, block, self.probe)
                totals.append(total)
                found.append(torch.linalg.vector_norm(roots, dim=1, keepdim=True) if whole else roots)
                continue
            share = _added([shares(self._layer, v[block], d[block]) for v, d in self._parts])
            totals.append(share.sum(0))
            if self._removed is not None:
                share = share - self._removed.of(block)
            found.append(_by_sample(share) if whole else by_input(layer, _canonical(layer, share)))
        self.total = _added(totals)
        return found[0] if len(found) == 1 else torch.cat(found)

    def _step(self, layer: Layer, places: bool) -> int:
        """How many samples to treat at a time."""
        value, delta = max(self._parts, key=lambda part: part[0].numel())
        inner = delta if layer.kind == "transposed" else value
        windows = math.prod(layer.kernel) * inner[0].numel()
        held = 3 * windows if places else max(windows, math.prod(layer.shape))
        return max(1, MEMORY // (value.element_size() * held))


def _few_places(layer: Layer, delta: Tensor) -> bool:
    """Whether products between the places of a sample are fewer numbers than its share of the gradient."""
    places = delta[0].numel() // layer.out_channels
    return layer.kind != "transposed" and 2 * places**2 < math.prod(layer.shape)


def _probe(layer: Layer) -> Tensor:
    """Some random directions of what a filter reads, ``(in/groups * taps, directions)``.

    Two gradients that agree along these agree: the expected square of a difference along them is its square.
    """
    drawn = torch.randn(math.prod(layer.shape[1:]), _PROBES, generator=torch.Generator().manual_seed(0))
    return drawn / math.sqrt(_PROBES)


def _along(layer: Layer, gradient: Tensor, probe: Tensor | None) -> Tensor:
    """A gradient, or its products with the probe, as `_by_places` sums them."""
    return gradient if probe is None else gradient.reshape(layer.groups, -1, len(probe)) @ probe


def _by_places(
    layer: Layer, value: Tensor, delta: Tensor, removed: _Removed | None, block: slice, probe: Tensor
) -> tuple[Tensor, Tensor]:
    """Root of the sum of squares of each sample's share by input channel, ``(samples, in_channels)``.

    Also the sum of all shares, multiplied by the probe: ``(groups, out/groups, directions)``.

    With what a place reads, ``x``, and its gradient, ``d``, the share is the sum of ``d x`` over places. Its squares
    sum to those of ``(d·d') x x'`` over pairs of places.
    """
    samples, groups = len(value), layer.groups
    read, rows = columns(layer, value, delta)  # (samples * parts * groups, in/groups * taps or out/groups, places)
    if (parts := value.shape[1]) > 1 and layer.kind != "linear":
        read, rows = (
            t.unflatten(0, (samples, parts, groups)).movedim(1, 3).reshape(samples * groups, t.shape[1], -1)
            for t in (read, rows)
        )
    total = torch.bmm(rows, (probe.T @ read).mT).unflatten(0, (samples, groups)).sum(0)
    if removed is not None:
        read = read.unflatten(0, (samples, groups)) - removed.center.unsqueeze(2)
        read = read.flatten(0, 1)
    squares = (torch.bmm(read, torch.bmm(rows.mT, rows)) * read).sum(2)  # (samples * groups, in/groups * taps)
    if removed is not None:
        along = removed.along[block].view(samples, groups, -1)
        turned = (rows.unflatten(0, (samples, groups)) * along.unsqueeze(3)).permute(1, 2, 0, 3)
        slope = removed.slope.reshape(groups, -1, read.shape[1])
        crossed = torch.bmm(slope.mT, turned.flatten(2)).view(groups, -1, samples, rows.shape[2])
        crossed = (crossed * read.unflatten(0, (samples, groups)).permute(1, 2, 0, 3)).sum(3)
        own = torch.bmm(along.square().transpose(0, 1), slope.square())
        squares = squares.view(samples, groups, -1) + (own - 2 * crossed.mT).transpose(0, 1)
    return squares.view(samples, layer.in_channels, -1).sum(2).clamp_min_(0).sqrt_(), total


def _added(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _by_sample(share: Tensor) -> Tensor:
    return torch.linalg.vector_norm(share.flatten(1), dim=1, keepdim=True)


def _canonical(layer: Layer, share: Tensor) -> Tensor:
    """Shares of samples, each in the layout of :func:`headstart.model.weights.to_canonical`."""
    return torch.vmap(lambda one: to_canonical(layer, one))(share) if layer.kind == "transposed" else share


@dataclass
class _Removed:
    """The part that a batch norm after a layer removes from every sample's share. It is zero in the sum.

    Attributes:
        layer: The layer.
        center: The mean input of each group, ``(groups, in/groups * taps)``; zero if the norm does not remove it.
        means: Sum of the gradient at the output by sample and output channel; zero if the norm does not remove it.
        mean: Its factor: the mean input of each filter, ``(out, ...)`` canonical.
        along: The same for the part along the output.
        slope: The factor of ``along``.
    """

    layer: Layer
    center: Tensor
    means: Tensor
    mean: Tensor
    along: Tensor
    slope: Tensor

    def of(self, block: slice) -> Tensor:
        """The part of some samples, in the layout of the layer's weight."""
        shape = (-1, self.layer.out_channels, *[1] * (len(self.layer.shape) - 1))
        found = self.means[block].view(shape) * self.mean + self.along[block].view(shape) * self.slope
        return torch.vmap(lambda one: from_canonical(self.layer, one))(found)


def _removed(use: _Use, size: int) -> _Removed | None:
    """Find what a batch norm removed from the gradient at the output: its sum, and its product with the output."""
    if use.output is None or use.delta is None:
        return None
    layer = use.layer
    axis = layer.channel_axis(use.delta)
    wide = working_dtype(use.delta.dtype)
    delta = use.delta.to(wide).movedim(axis, -1).flatten(0, -2)  # (places, out)
    no_mean = _is_gone(delta)
    group = mean_patch(layer, use.value)  # (groups, in/groups * taps)
    mean = group.repeat_interleave(layer.out_channels // layer.groups, 0).view(layer.shape).to(wide)
    output = use.output.to(wide).movedim(axis, -1).flatten(0, -2)
    output = output - output.mean(0)
    unit = output / torch.linalg.vector_norm(output, dim=0).clamp_min(torch.finfo(wide).tiny)
    along = delta * unit
    back = unit.unflatten(0, use.delta.movedim(axis, -1).shape[:-1]).movedim(-1, axis)
    slope = to_canonical(layer, product(layer, use.value.to(wide), back))
    by_sample = (size, len(delta) // size)
    return _Removed(
        layer,
        group.to(wide) * no_mean,
        delta.unflatten(0, by_sample).sum(1) * no_mean,
        mean,
        along.unflatten(0, by_sample).sum(1) * (no_mean * _is_gone(along)),
        slope,
    )


def _is_gone(terms: Tensor) -> Tensor:
    """Whether a sum over the first axis is negligible beside its terms: 1 or 0, on the device."""
    return (torch.linalg.vector_norm(terms.sum(0)) < _GONE * torch.linalg.vector_norm(terms)).to(terms.dtype)


def _split(use: _Use, size: int) -> tuple[Tensor, Tensor] | None:
    """Input and gradient at the output, each with a leading axis of samples; None if they have none."""
    assert use.delta is not None
    found = []
    for value in (use.value, use.delta):
        wide = value.to(working_dtype(value.dtype))
        if use.layer.kind == "linear":
            if size > 1 and wide.dim() > 2 and wide.shape[0] % size and wide.shape[1] == size:
                wide = wide.movedim(1, 0)  # sequences first
            rows = wide.shape[0] if wide.dim() > 1 else 1
            if rows % size:
                return None
            found.append(wide.reshape(size, -1, wide.shape[-1]))
        else:
            wide = batched(wide, use.layer)
            if len(wide) % size:
                return None
            found.append(wide.unflatten(0, (size, -1)))
    return found[0], found[1]


def directions(rows: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw random gradients for samples, each with mean zero and the identity as covariance.

    Up to ``width`` of them are orthogonal and of one length. So samples that are alike show
    their whole Jacobian, and the sum of squares has far less noise than with independent draws.

    Args:
        rows: The number of samples.
        width: The number of values of each.
        generator: On the CPU.

    Returns:
        ``(rows, width)`` in float32.

    Example:
        >>> drawn = directions(5, 4, torch.Generator().manual_seed(0))
        >>> torch.allclose(drawn[:4] @ drawn[:4].T, 4 * torch.eye(4), atol=1e-5)
        True
    """
    if width > _WIDE:  # random vectors of so many values are nearly at right angles anyway
        return torch.randn(rows, width, generator=generator)
    found = []
    for start in range(0, rows, max(1, width)):
        count = min(width, rows - start)
        q, r = torch.linalg.qr(torch.randn(width, count, generator=generator))
        sign = torch.where(torch.diagonal(r) < 0, -1.0, 1.0)  # else the factorization's convention shows
        found.append((q * sign).T * width**0.5)
    return torch.cat(found) if found else torch.zeros(0, width)
