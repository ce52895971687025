"""Squared weight gradients, one sample at a time, out of a single backward pass over all of them.

The gradient of a layer's weight is a sum over samples of products of what came in and of the gradient that came back.
With independent random gradients at the outputs the samples' shares are independent with mean zero, so the expected
square of the sum is the sum of the expected squares. Squaring first leaves out the cross terms, which have mean zero
and make nearly all of the noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from headstart.measure.layer_patches import mean_patch
from headstart.measure.patches import batched
from headstart.model.forward import by_layer, first_input
from headstart.model.hooks import hooked
from headstart.model.weights import Layer, from_canonical, to_canonical, working_dtype

_AGREE = 0.02  # of the size of the shares: how far their sum may be from the gradient that autograd finds
_GONE = 1e-3  # of the size of a sum of independent terms: what is smaller was taken out by a batch norm
_WIDE = 2**16  # values of a gradient up to which random ones are turned to right angles


@dataclass
class _Use:
    """One call of a layer: what came in, what went out, and the gradient that came back."""

    layer: Layer
    value: Tensor
    output: Tensor | None
    delta: Tensor | None = None


class SampleGradients:
    """Watches a forward and a backward pass, and sums the squared weight gradients of every sample.

    Args:
        layers: What to look at.
        size: Samples in the batch.
        coupled: Whether batch norms take the statistics of the batch. They take a gradient's mean over the batch and
            its part along the output away, in every sample alike; the shares are then those of an input without what
            meets these parts.

    Attributes:
        squares: By layer name, ``(samples, in_channels)`` sums of squares in float64. A single row where the
            samples' shares cannot be told apart: that of the one gradient.
    """

    def __init__(self, layers: Iterable[Layer], size: int, coupled: bool = False) -> None:
        self.squares: dict[str, Tensor] = {}
        self._layers, self._size, self._coupled = list(layers), size, coupled
        self._uses: dict[int, list[_Use]] = {}  # by the id of the weight: layers may share one
        self._weights: list[Tensor] = []  # kept alive, so that ids stay theirs
        self._sums: dict[str, Tensor] = {}
        self._running = False

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Watch the layers while a forward pass runs; what comes back is seen as long as its graph lives."""
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
        use = _Use(layer, value.detach(), output.detach() if self._coupled else None)
        weight = layer.module.weight
        self._weights.append(weight)
        self._uses.setdefault(id(weight), []).append(use)
        output.register_hook(partial(self._arrived, id(weight), use))  # sees the output as it is now, before any ReLU_

    def _arrived(self, key: int, use: _Use, delta: Tensor) -> None:
        if self._running:  # the forward asks for gradients of its own, such as forces
            return
        use.delta = delta.detach()
        if key in self._uses and all(u.delta is not None for u in self._uses[key]):
            self._settle(key)

    @torch.no_grad()
    def _settle(self, key: int) -> None:
        uses = [use for use in self._uses.pop(key) if use.delta is not None]
        if not uses:
            return
        layers = {use.layer.name: use.layer for use in uses}
        shares = _Shares(uses, self._size)
        for name, layer in layers.items():
            self.squares[name] = shares.squares(layer)
            self._sums[name] = shares.total

    def finish(self, gradients: Mapping[str, Tensor | None]) -> list[str]:
        """Compare with what autograd found in the same pass, and take that where the shares do not add up to it.

        That is where a weight is used by more than its layer, or the layer's output is no product with it.

        Args:
            gradients: Of the effective weights, as the layers store them, by name.

        Returns:
            Names of the layers whose samples cannot be told apart.
        """
        for key in list(self._uses):
            self._settle(key)
        one = []
        for layer in self._layers:
            gradient = gradients.get(layer.name)
            if gradient is None:
                self.squares.pop(layer.name, None)
                continue
            wide = gradient.detach().to(working_dtype(gradient.dtype))
            found = self.squares.get(layer.name)
            if found is not None:
                gap = float(torch.linalg.vector_norm(self._sums.pop(layer.name) - wide))
                if not gap <= _AGREE * float(found.sum()) ** 0.5 + _AGREE * float(torch.linalg.vector_norm(wide)):
                    found = None
            if found is None:
                found = by_input(layer, to_canonical(layer, wide)).unsqueeze(0)
            self.squares[layer.name] = found
            if len(found) == 1 < self._size:
                one.append(layer.name)
        return one


class _Shares:
    """The samples' shares of the gradient of one weight, over all of its uses."""

    def __init__(self, uses: list[_Use], size: int) -> None:
        parts = [_split(use, size) for use in uses]
        if any(part is None for part in parts):
            parts = [_split(use, 1) for use in uses]
        self._parts = [part for part in parts if part is not None]
        self._layer = uses[0].layer
        self._removed = _removed(uses[0], size) if len(uses) == 1 and len(self._parts[0][0]) > 1 else None
        self.total = torch.zeros(())

    def squares(self, layer: Layer) -> Tensor:
        """Sum the squares over everything but samples and input channels of ``layer``."""
        if len(self._parts) == 1 and layer.kind == "linear" and self._removed is None:
            value, delta = self._parts[0]
            if value.shape[1] == 1:  # a product of two vectors: its squares need no matrix
                self.total = delta.flatten(0, 1).T @ value.flatten(0, 1)
                return delta.double().square().sum(2) * value[:, 0].double().square()
        rows = []
        self.total = torch.zeros(())
        for number in range(len(self._parts[0][0])):
            share = sum((product(self._layer, v[number], d[number]) for v, d in self._parts), torch.zeros(()))
            self.total = self.total.to(share.device) + share
            if self._removed is not None:
                share = share - self._removed.of(number, share)
            rows.append(by_input(layer, to_canonical(layer, share)))
        return torch.stack(rows)


@dataclass
class _Removed:
    """What a batch norm behind a layer takes out of every sample's share, which is zero in the sum.

    Attributes:
        layer: The layer.
        means: Sum of the returned gradient by sample and output channel; None if the norm leaves it.
        mean: What it multiplies: the mean input of each filter, ``(out, ...)`` canonical.
        along: The same for the part along the output.
        slope: What that multiplies.
    """

    layer: Layer
    means: Tensor | None = None
    mean: Tensor | None = None
    along: Tensor | None = None
    slope: Tensor | None = None

    def of(self, number: int, like: Tensor) -> Tensor:
        """The part of one sample, as the layer stores weights."""
        found = to_canonical(self.layer, torch.zeros_like(like)).contiguous()
        shape = (-1, *[1] * (found.dim() - 1))
        for factor, value in ((self.means, self.mean), (self.along, self.slope)):
            if factor is not None and value is not None:
                found = found + factor[number].reshape(shape) * value
        return from_canonical(self.layer, found)


def _removed(use: _Use, size: int) -> _Removed | None:
    """Find what a batch norm took out of the returned gradient: its sum, and its product with the output."""
    if use.output is None or use.delta is None:
        return None
    layer = use.layer
    axis = layer.channel_axis(use.delta)
    wide = working_dtype(use.delta.dtype)
    delta = use.delta.to(wide).movedim(axis, -1).flatten(0, -2)  # (places, out)
    energy = delta.square().sum().sqrt()
    found = _Removed(layer)
    if float(torch.linalg.vector_norm(delta.sum(0))) < _GONE * float(energy):
        found.means = delta.unflatten(0, (size, -1)).sum(1)
        group = mean_patch(layer, use.value)  # (groups, in/groups * taps)
        found.mean = group.repeat_interleave(layer.out_channels // layer.groups, 0).reshape(layer.shape)
        found.mean = found.mean.to(wide)
    output = use.output.to(wide).movedim(axis, -1).flatten(0, -2)
    output = output - output.mean(0)
    unit = output / torch.linalg.vector_norm(output, dim=0).clamp_min(torch.finfo(wide).tiny)
    along = delta * unit
    if found.means is not None and float(torch.linalg.vector_norm(along.sum(0))) < _GONE * float(
        torch.linalg.vector_norm(along)
    ):
        found.along = along.unflatten(0, (size, -1)).sum(1)
        back = unit.unflatten(0, use.delta.movedim(axis, -1).shape[:-1]).movedim(-1, axis)
        found.slope = to_canonical(layer, product(layer, use.value.to(wide), back))
    return None if found.means is None else found


def _split(use: _Use, size: int) -> tuple[Tensor, Tensor] | None:
    """Input and returned gradient with an axis of samples ahead; None if there is none."""
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


def product(layer: Layer, value: Tensor, delta: Tensor) -> Tensor:
    """The gradient of a layer's weight for one input and the gradient at its output, as the layer stores it.

    Example:
        >>> conv = torch.nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2)
        >>> x, y = torch.randn(5, 4, 7), None
        >>> y = conv(x)
        >>> (expected,) = torch.autograd.grad(y.square().sum(), conv.weight)
        >>> torch.allclose(product(Layer("", conv), x, 2 * y.detach()), expected, atol=1e-4)
        True
    """
    if layer.kind == "linear":
        return delta.reshape(-1, delta.shape[-1]).T @ value.reshape(-1, value.shape[-1])
    module = layer.module
    value, delta = batched(value, layer), batched(delta, layer)
    padding = module.padding
    if layer.kind == "transposed":
        value, delta = delta, value  # it is the convolution that leads from its output to its input
    elif module.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        value, padding = F.pad(value, module._reversed_padding_repeated_twice, mode=mode), (0,) * len(layer.kernel)
    geometry = (module.stride, padding, module.dilation, False, (0,) * len(layer.kernel), layer.groups)
    shape = module.weight.shape
    found = torch.ops.aten.convolution_backward(
        delta.contiguous(), value.contiguous(), value.new_empty(shape), None, *geometry, [False, True, False]
    )
    gradient: Tensor = found[1]
    return gradient


def by_input(layer: Layer, values: Tensor) -> Tensor:
    """Sum the squares of a canonical weight, or of its gradient, by input channel: ``(in_channels,)`` in float64."""
    wide = values.to(working_dtype(values.dtype))
    grouped = wide.unflatten(0, (layer.groups, -1)).unsqueeze(-1).flatten(3)  # (groups, out/g, in/g, taps)
    return torch.linalg.vector_norm(grouped, dim=(1, 3)).double().square().flatten()


def directions(rows: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw random gradients for samples: each has mean zero and the identity as covariance.

    Up to ``width`` of them are at right angles to each other and of one length, so that samples that are alike show
    their whole Jacobian: the sum of squares has far less noise than that of independent draws.

    Args:
        rows: Samples.
        width: Values of each.
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
