"""One entry of a filter bank: the clusters of one kind of filter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from headstart.errors import HeadstartError


@dataclass(frozen=True, eq=False)
class Entry:
    """Clusters of the filters of one layer, or of one kind of layer.

    An *atom* is one clustered item: a slice (the kernel of one filter on one input channel), or a whole filter.

    Args:
        kernel: Kernel size in one, two or three dimensions, with more than one tap.
        depth: Relative position among the source's convolutions of more than one tap: 0 the first, 1 the last.
        depthwise: The atoms come from depthwise convolutions.
        layer: Qualified name in the source; "" where several layers were pooled.
        centroids: ``(k, *atom)``, float32 on the CPU. An atom has the shape ``kernel``, or
            ``(in_channels/groups, *kernel)`` for whole filters.
        deviations: Standard deviation of each tap about its mean within each cluster, ``(k, *atom)``.
        sizes: Atoms in each cluster, ``(k,)`` int64.
        inertia: Sum of squared distances to the centroids, in the distance that was used.
        norm: Root mean square of all weights that the entry was made from.
        whole: The atoms are whole filters.

    Raises:
        HeadstartError: A value is out of range, or shapes do not fit together.

    Example:
        >>> atoms, sizes = torch.eye(9).reshape(9, 3, 3), torch.ones(9, dtype=torch.int64)
        >>> Entry((3, 3), 0.0, False, "conv1", atoms, torch.zeros_like(atoms), sizes, 0.0, 0.1)
        Entry('conv1', 9 clusters of 3×3 slices, depth 0)
    """

    kernel: tuple[int, ...]
    depth: float
    depthwise: bool
    layer: str
    centroids: Tensor
    deviations: Tensor
    sizes: Tensor
    inertia: float
    norm: float
    whole: bool = False

    def __post_init__(self) -> None:
        where = f"The entry '{self.layer or self.form}'"
        if not 1 <= len(self.kernel) <= 3 or min(self.kernel) < 1 or math.prod(self.kernel) < 2:
            raise HeadstartError(f"{where} has a kernel of {self.kernel}; it takes 1 to 3 sizes and more than one tap.")
        atom = tuple(self.centroids.shape[1:])
        if len(self.centroids) == 0 or atom[int(self.whole) :] != self.kernel or 0 in atom:
            raise HeadstartError(f"{where} has centroids of {tuple(self.centroids.shape)}, which are not {self.form}.")
        if self.deviations.shape != self.centroids.shape or self.sizes.shape != self.centroids.shape[:1]:
            shapes = f"{tuple(self.deviations.shape)} and {tuple(self.sizes.shape)}"
            raise HeadstartError(
                f"{where} has deviations and sizes of {shapes} for centroids of {tuple(self.centroids.shape)}."
            )
        kinds = [(t.dtype, t.device.type) for t in (self.centroids, self.deviations, self.sizes)]
        if kinds != [(torch.float32, "cpu"), (torch.float32, "cpu"), (torch.int64, "cpu")]:
            raise HeadstartError(f"{where} holds {kinds}; it takes float32, float32 and int64 on the CPU.")
        numbers = (self.inertia, self.norm, float(self.deviations.min()))
        finite = bool(torch.isfinite(self.centroids).all() and torch.isfinite(self.deviations).all())
        if not finite or not all(math.isfinite(v) and v >= 0 for v in numbers) or not 0 <= self.depth <= 1:
            raise HeadstartError(f"{where} has values that are not finite, negative, or a depth outside of 0 to 1.")
        if bool((self.sizes < 1).any()):
            raise HeadstartError(f"{where} has a cluster without filters: sizes are {self.sizes.tolist()}.")

    @property
    def form(self) -> str:
        """A description of its atoms."""
        kernel = "×".join(map(str, self.kernel))
        if not self.whole:
            return f"{kernel} {'depthwise ' * self.depthwise}slices"
        channels = "×".join(map(str, self.centroids.shape[1:2]))
        return f"{channels}×{kernel} {'depthwise ' * self.depthwise}filters"

    def __len__(self) -> int:
        return len(self.centroids)

    def __repr__(self) -> str:
        name = f"{self.layer!r}, " if self.layer else ""
        return f"Entry({name}{len(self)} clusters of {self.form}, depth {self.depth:.3g})"
