"""Patches of a layer's input, and the image statistics that Pre-Warm's rules use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headstart.errors import DataError
from headstart.model.weights import Layer

BINS = 256
CHUNK = 2**22  # values that the histogram widens at a time


def batched(value: Tensor, layer: Layer) -> Tensor:
    """The layer's input with a batch axis, which is added if it is missing."""
    return value if value.dim() == len(layer.kernel) + 2 else value.unsqueeze(0)


def spans(layer: Layer) -> list[int]:
    """Input positions that the dilated kernel covers, per dimension."""
    return [(k - 1) * d + 1 for k, d in zip(layer.kernel, layer.module.dilation, strict=True)]


def positions(value: Tensor, layer: Layer) -> int:
    """The number of places in one sample where a patch fits without padding."""
    space = value.shape[-len(layer.kernel) :]
    return math.prod(max(0, s - span + 1) for s, span in zip(space, spans(layer), strict=True))


def sample_patches(
    value: Tensor, layer: Layer, per_sample: int, generator: torch.Generator, counted: Tensor | None = None
) -> Tensor:
    """Draw patches of a convolution's size and dilation, uniformly and with replacement, without padding.

    Args:
        value: The layer's input, ``(batch, channels, *space)`` or one sample without the batch axis.
        layer: A convolution of any dimension.
        per_sample: Patches from every sample.
        generator: Draws the positions.
        counted: Which positions of the input count, ``(batch, *space)``. Patches lie within these; samples without
            any give no patches. All count by default.

    Returns:
        ``(batch * per_sample, channels, *kernel)`` in working precision, sample by sample.

    Raises:
        DataError: The input, or the part of it that counts, is smaller than the kernel.
    """
    windows = _windows(value, layer)
    if counted is not None:
        inside = _inside(counted, layer)
        held = inside.flatten(1).any(1).nonzero()
        drawn = torch.multinomial(inside.flatten(1)[held[:, 0]].float().cpu(), per_sample, True, generator=generator)
        places = torch.unravel_index(drawn.to(windows.device), inside.shape[1:])
        return _widened(windows[(held, slice(None), *places)].flatten(0, 1))
    batch, space = len(windows), windows.shape[2 : 2 + len(layer.kernel)]
    corners = [torch.randint(n, (batch, per_sample), generator=generator).to(windows.device) for n in space]
    rows = torch.arange(batch, device=windows.device).unsqueeze(1)
    return _widened(windows[(rows, slice(None), *corners)].flatten(0, 1))


def every_patch(value: Tensor, layer: Layer, counted: Tensor | None = None) -> Tensor:
    """All patches of a convolution's size and dilation, without padding: ``(number, channels, *kernel)``.

    Raises:
        DataError: The input, or the part of it that counts, is smaller than the kernel.
    """
    windows = _windows(value, layer)  # (batch, channels, *places, *kernel)
    dims = len(layer.kernel)
    patches = windows.movedim(1, 1 + dims).flatten(0, dims)
    return _widened(patches if counted is None else patches[_inside(counted, layer).flatten()])


def _inside(counted: Tensor, layer: Layer) -> Tensor:
    """Where a patch reads only positions that count: ``(batch, *places)``."""
    inside: Tensor = _windows(counted.unsqueeze(1), layer).flatten(-len(layer.kernel)).all(-1)[:, 0]
    if not bool(inside.any()):
        raise DataError(
            f"No patch of {layer.where}'s input lies in positions that count.",
            remedy="Check mask=, or pass longer samples: patches are taken without padding.",
        )
    return inside


def _widened(patches: Tensor) -> Tensor:
    """Patches in float32 or better."""
    return patches if patches.dtype in (torch.float32, torch.float64) else patches.float()


def _windows(value: Tensor, layer: Layer) -> Any:
    """A view ``(batch, channels, *places, *kernel)`` of every patch."""
    images, dilation = batched(value, layer), tuple(layer.module.dilation)
    if positions(images, layer) == 0:
        raise DataError(
            f"The input of {layer.where} is {'×'.join(map(str, images.shape[2:]))}, smaller than its kernel"
            f" {'×'.join(map(str, layer.kernel))}{f' dilated by {dilation}' if max(dilation) > 1 else ''}.",
            remedy="Pass larger images: patches are taken without padding.",
        )
    windows: Any = images
    for axis, span in enumerate(spans(layer)):
        windows = windows.unfold(2 + axis, span, 1)
    return windows[(..., *(slice(None, None, d) for d in dilation))]


def taper(kernel: tuple[int, ...]) -> Tensor:
    """Inverse Manhattan weights ``1 / (1 + sum |i - c|)`` around the kernel's centre ``c = (k - 1) / 2``.

    Example:
        >>> taper((3, 3))
        tensor([[0.3333, 0.5000, 0.3333],
                [0.5000, 1.0000, 0.5000],
                [0.3333, 0.5000, 0.3333]])
    """
    distance = torch.zeros(kernel)
    for axis, k in enumerate(kernel):
        shape = [1] * len(kernel)
        shape[axis] = k
        distance = distance + (torch.arange(k) - (k - 1) / 2).abs().reshape(shape)
    return 1 / (1 + distance)


def otsu_threshold(values: Tensor) -> float:
    """Otsu's threshold on 256 equal bins between the least and the largest value.

    Because the bins follow the range, the threshold moves with any affine change of the values: the share
    of pixels above it is the same on raw and on standardized gray images.

    Example:
        >>> 0.2 < otsu_threshold(torch.tensor([0.0, 0.2, 0.9, 1.0])) < 0.9
        True
    """
    flat = values.detach().flatten()
    low, high = float(flat.min()), float(flat.max())
    if not high > low:
        return low
    counts = torch.zeros(BINS, dtype=torch.float64)
    for part in flat.split(CHUNK):
        # The nudge keeps levels that lie exactly on an edge in the upper bin whatever the rounding.
        place = ((part.double() - low) * (BINS / (high - low)) + 1e-3).long().clamp_(max=BINS - 1)
        counts += torch.bincount(place, minlength=BINS).cpu()
    # In units of bins, so that ties fall alike in every scale of the values.
    centres = torch.arange(BINS, dtype=torch.float64) + 0.5
    below, above = counts.cumsum(0), counts.flip(0).cumsum(0).flip(0)
    mean_below = (counts * centres).cumsum(0) / below.clamp_min(1)
    mean_above = (counts * centres).flip(0).cumsum(0).flip(0) / above.clamp_min(1)
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return low + float(centres[int(between.argmax())]) * (high - low) / BINS


def foreground_density(images: Tensor) -> float:
    """Share of pixels above Otsu's threshold.

    Example:
        >>> foreground_density(torch.tensor([0.0, 0.1, 0.1, 0.9]))
        0.25
    """
    wide = images if images.dtype == torch.float64 else images.float()
    return int((wide > otsu_threshold(images)).sum()) / images.numel()


def mean_patch_norm(patches: Tensor) -> float:
    """Mean length of patches, after each patch's mean over its entries is subtracted."""
    flat = patches.flatten(1)
    return float((flat - flat.mean(1, keepdim=True)).norm(dim=1).mean())


def raw_pixels(images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor | None:
    """Turn normalized images back into pixels in [0, 1]; None if the normalization is not known.

    Args:
        images: ``(batch, channels, *space)``.
        mean: What the normalization subtracted, per channel or one for all; None if it is not known.
        std: What it divided by, likewise.

    Raises:
        DataError: ``mean`` or ``std`` does not have a value per channel.
    """
    if mean is not None and std is not None:
        channels = images.shape[1]
        if len(mean) not in (1, channels) or len(std) not in (1, channels):
            raise DataError(
                f"mean= and std= have {len(mean)} and {len(std)} values for images of {channels} channels.",
                remedy="Pass one value per channel, as the normalization has them.",
            )
        shape = (1, -1, *[1] * (images.dim() - 2))
        wide = images if images.dtype == torch.float64 else images.float()
        images = wide * wide.new_tensor(std).reshape(shape) + wide.new_tensor(mean).reshape(shape)
    low, high = float(images.min()), float(images.max())
    if low < -0.01 or high > 255.5:
        return None
    if high <= 1.01:
        return images
    return images / 255 if _whole(images) else None


def _whole(images: Tensor) -> bool:
    part = images.flatten()[: 2**16].float()
    return float((part - part.round()).abs().max()) < 1e-3
