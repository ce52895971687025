"""Hand-made banks."""

from __future__ import annotations

import math

import torch

from headstart import rng
from headstart.banks import Entry, FilterBank


def entry(
    kernel: tuple[int, ...] = (3, 3),
    depth: float = 0.0,
    *,
    clusters: int = 3,
    depthwise: bool = False,
    layer: str = "",
    channels: int | None = None,
    deviation: float = 0.0,
    norm: float = 0.2,
    seed: int = 0,
) -> Entry:
    """Random centroids; sizes 1, 2, 3, ...; ``channels`` makes whole filters."""
    shape = (clusters, *(() if channels is None else (channels,)), *kernel)
    draw = rng.generator(seed, repr((kernel, depth, depthwise, layer, channels)))
    atoms = torch.randn(shape, generator=draw)
    spread = deviation * torch.linspace(0.5, 1.5, math.prod(shape[1:])).reshape(shape[1:]).expand(shape).contiguous()
    sizes = torch.arange(1, clusters + 1)
    return Entry(kernel, depth, depthwise, layer, atoms, spread, sizes, 1.0, norm, channels is not None)


def bank(*entries: Entry, title: str = "hand-made") -> FilterBank:
    """A bank of these entries."""
    return FilterBank(entries, {"title": title})
