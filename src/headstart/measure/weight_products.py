"""Products of what a layer reads and the gradient at its output: the gradients of its weight, whole or by sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from headstart.measure.patches import batched
from headstart.model.weights import Layer, working_dtype


def columns(layer: Layer, value: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer reads at each of its places, and the gradients there.

    Args:
        layer: Any weight layer.
        value: Its input, ``(samples, parts, ...)``: one sample of the batch may be several in the layer.
        delta: The gradient at its output, likewise.

    Returns:
        ``(samples * parts * groups, in/groups * taps, places)`` and ``(samples * parts * groups, out/groups, places)``.
        Of a transposed convolution they are those of the convolution from its output to its input.
    """
    if layer.kind == "linear":
        return value.mT, delta.mT
    module, groups = layer.module, layer.groups
    if layer.kind == "transposed":
        value, delta = delta, value
    images, mode = value.flatten(0, 1), getattr(module, "padding_mode", "zeros")
    if any(module._reversed_padding_repeated_twice):
        images = F.pad(images, module._reversed_padding_repeated_twice, mode="constant" if mode == "zeros" else mode)
    step = images.stride()
    sizes = (len(images), groups, images.shape[1] // groups, *layer.kernel, *delta.shape[3:])
    inside = [s * d for s, d in zip(step[2:], module.dilation, strict=True)]
    across = [s * d for s, d in zip(step[2:], module.stride, strict=True)]
    windows = images.as_strided(sizes, (step[0], step[1] * sizes[2], step[1], *inside, *across))
    read = windows.reshape(len(images) * groups, sizes[2] * math.prod(layer.kernel), -1)
    return read, delta.reshape(len(read), -1, read.shape[2])


def shares(layer: Layer, value: Tensor, delta: Tensor) -> Tensor:
    """Every sample's share of the gradient of a layer's weight, as the layer stores it, by one batched product.

    Args:
        layer: Any weight layer.
        value: Its input, ``(samples, parts, ...)``: one sample of the batch may be several in the layer.
        delta: The gradient at its output, likewise.

    Example:
        >>> conv, x = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), torch.randn(5, 4, 7, 7)
        >>> y = conv(x)
        >>> (whole,) = torch.autograd.grad(y.square().sum(), conv.weight)
        >>> found = shares(Layer("", conv), x[:, None], 2 * y.detach()[:, None])
        >>> found.shape, torch.allclose(found.sum(0), whole, atol=1e-4)
        (torch.Size([5, 6, 2, 3, 3]), True)
    """
    read, rows = columns(layer, value, delta)
    found = torch.bmm(rows, read.mT)
    if layer.kind == "linear":
        return found
    samples, parts = value.shape[:2]
    if parts > 1:
        found = found.view(samples, parts, -1).sum(1)
    return found.view(samples, *layer.stored.shape)


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
    """Roots of the sums of squares of canonical weights, or gradients, by input channel.

    Args:
        layer: Its geometry.
        values: ``(number, out, in/groups, *kernel)``.

    Returns:
        ``(number, in_channels)`` in working precision.
    """
    wide = values.to(working_dtype(values.dtype))
    grouped = wide.unflatten(1, (layer.groups, -1)).unsqueeze(-1).flatten(4)  # (number, groups, out/g, in/g, taps)
    return torch.linalg.vector_norm(grouped, dim=(2, 4)).flatten(1)
