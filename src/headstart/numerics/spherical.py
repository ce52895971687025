"""Spherical k-means: cluster directions by angle, on any device, in blocks of memory, without reads from the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from headstart.numerics.lloyd import ALIKE, LOOK, MEMORY, ROUNDS, SOON, block_sizes, sums_by_products


class Directions:
    """Points that are to be clustered by their angles.

    Args:
        points: ``(n, dimensions)`` of length 1, or of length 0: these have no direction and are ignored.
        memory: Limit in bytes for the comparison of points with centroids.
    """

    def __init__(self, points: Tensor, *, memory: int = MEMORY) -> None:
        self.points, self._turned, self._memory = points, points.T, memory
        self._least = torch.finfo(points.dtype).eps ** 1.5  # far below rounding, and its square is still a number

    def start(self, clusters: int, generator: torch.Generator, rounds: int = ROUNDS) -> Tensor:
        """Draw points as centroids; points far from the earlier ones are likelier (Arthur and Vassilvitskii 2007).

        Each of a few rounds draws several points at once, without replacement, by the smallest of exponential
        times (Efraimidis and Spirakis 2006).

        Returns:
            ``(clusters, dimensions)``.
        """
        sizes = [1, *block_sizes(clusters - 1, rounds)]
        times = torch.empty(len(sizes), len(self.points), dtype=self.points.dtype).exponential_(generator=generator)
        chances = times.clamp_min_(SOON).to(self.points.device, non_blocking=True).reciprocal_()
        chances.mul_(torch.linalg.vector_norm(self.points, dim=1))
        chosen: list[Tensor] = []
        best = torch.empty(0)
        for size, chance in zip(sizes, chances.unbind(), strict=True):
            # What is nearer than rounding lets see is the same, and comes last.
            far = torch.addcmul(chance, best, chance, value=-1 - ALIKE) if chosen else chance
            new = self.points.index_select(0, far.topk(size).indices)
            near = self._near(new)
            best = torch.maximum(best, near) if chosen else near
            chosen.append(new)
        found = torch.cat(chosen)
        found.select(1, 0).add_(
            torch.linalg.vector_norm(found, dim=1) == 0
        )  # anywhere, where there are too few directions
        return found

    def run(self, centroids: Tensor, iterations: int, *, looks: bool = False) -> tuple[Tensor, Tensor]:
        """Repeatedly move every centroid to the mean direction of the points nearest to it.

        Args:
            centroids: ``(clusters, dimensions)``.
            iterations: The largest number of iterations, at least one.
            looks: Whether to stop when nothing changes any more, which reads from the device every few iterations.

        Returns:
            Centroids of length 1 (Dhillon and Modha 2001), and which of them have points: ``(clusters,)``. A centroid
            without points stays where it was.
        """
        blocks = list(self._blocks(len(centroids)))
        length = torch.empty(0)
        for iteration in range(iterations):
            before = centroids
            sums = torch.add(self._sums(centroids, blocks), centroids, alpha=self._least)  # it stays if it has none
            length = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
            centroids = sums / length
            if looks and iteration % LOOK == LOOK - 1 and torch.equal(before, centroids):
                break
        return centroids, length[:, 0] > 2 * self._least

    def labels(self, centroids: Tensor) -> Tensor:
        """Number of the nearest centroid of each point."""
        turned = centroids.T
        return torch.cat([(block @ turned).argmax(1) for block, _ in self._blocks(len(centroids))])

    def _sums(self, centroids: Tensor, blocks: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Sum of the points nearest to each centroid."""
        if not sums_by_products(centroids.device):
            turned, rows = centroids.T, torch.zeros_like(centroids)
            for block, _ in blocks:
                rows.index_add_(0, (block @ turned).argmax(1), block)
            return rows
        sums: Tensor | None = None
        for block, turned in blocks:
            scores = centroids @ turned
            own = torch.zeros_like(scores).scatter_(0, scores.argmax(0, keepdim=True), 1)
            sums = own @ block if sums is None else torch.addmm(sums, own, block)
        assert sums is not None
        return sums

    def _near(self, centroids: Tensor) -> Tensor:
        parts = [(centroids @ turned).amax(0) for _, turned in self._blocks(len(centroids))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _blocks(self, clusters: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Points and their transpose, block by block."""
        rows = max(1, self._memory // (4 * self.points.element_size() * clusters))
        if rows >= len(self.points):
            yield self.points, self._turned
            return
        for block in self.points.split(rows):
            yield block, block.T
