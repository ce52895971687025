"""Lloyd's iterations on any device: several starts in one batch, in blocks of memory, with few device reads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

ROUNDS = 10  # in which a start is drawn; within one, points do not see each other
LOOK = 8  # iterations between two looks whether anything still moves
MEMORY = 2**28  # bytes
ALIKE = 1e-6  # of the squared length: points closer than that are one
SOON = 1e-30  # the smallest of times that are drawn


def sums_by_products(device: torch.device) -> bool:
    """Whether to sum over clusters by a product with zeros and ones, whose order is the same in every run.

    The CPU adds row by row: that is far less work, and the order is the same for every number of threads.
    """
    return device.type != "cpu"


class Lloyd:
    """Points that are to be clustered.

    Args:
        points: ``(n, dimensions)``, in float32 or float64, near the origin, since distances are computed from products.
        memory: Limit in bytes for the comparison of points with centroids.
    """

    def __init__(self, points: Tensor, *, memory: int = MEMORY) -> None:
        self.points, self._memory = points, memory
        self._square = points.square().sum(1)
        self._repeated: dict[int, Tensor] = {}  # by the number of starts: the points once for each

    def start(self, clusters: int, starts: int, generator: torch.Generator, rounds: int = ROUNDS) -> Tensor:
        """Draw points as centroids; points far from the earlier ones are likelier (Arthur and Vassilvitskii 2007).

        Each of a few rounds draws several points at once, without replacement, by the smallest of exponential
        times (Efraimidis and Spirakis 2006). So a round costs a few operations, however many clusters there are.

        Returns:
            ``(starts, clusters, dimensions)``.
        """
        sizes = [1, *block_sizes(clusters - 1, rounds)]
        shape = len(sizes), starts, len(self.points)
        times = torch.empty(shape, dtype=self.points.dtype).exponential_(generator=generator)
        times = times.clamp_min_(SOON).to(self.points.device)
        apart = self._square * (1 - ALIKE)  # what is nearer than rounding lets see is the same
        chosen: list[Tensor] = []
        best = torch.empty(0)
        for size, time in zip(sizes, times, strict=True):
            far = (apart - 2 * best).clamp_min_(0) if chosen else 1
            new = self.points[(far / time).topk(size, dim=1).indices]
            near = self._near(new)
            best = torch.maximum(best, near) if chosen else near
            chosen.append(new)
        return torch.cat(chosen, 1)

    def run(self, centroids: Tensor, iterations: int, *, looks: bool = True) -> Tensor:
        """Repeatedly move every centroid to the mean of the points nearest to it.

        Args:
            centroids: ``(starts, clusters, dimensions)``.
            iterations: The largest number of iterations.
            looks: Whether to stop when nothing changes any more, which reads from the device every few iterations.
        """
        for iteration in range(iterations):
            before, centroids = centroids, self._moved(centroids)
            if looks and iteration % LOOK == LOOK - 1 and torch.equal(before, centroids):
                break
        return centroids

    def improve(
        self, centroids: Tensor, generator: torch.Generator, rounds: int, iterations: int, shift: int = 3
    ) -> Tensor:
        """Move the centroids that explain least to where points fit worst, fewer each time; keep the result if better.

        Args:
            centroids: ``(starts, clusters, dimensions)``; each start is improved separately.
            generator: Draws the places.
            rounds: The number of rounds.
            iterations: The iterations of :meth:`run` after each round.
            shift: The first round moves ``clusters / 2**shift``, each further one half as many.
        """
        starts, clusters, dimensions = centroids.shape
        best, least = centroids, self.inertia(centroids)
        for turn in range(rounds if clusters > 1 else 0):
            moving = max(1, clusters >> (turn + shift))
            times = torch.empty(starts, len(self.points), dtype=self.points.dtype).exponential_(generator=generator)
            times.clamp_min_(SOON)
            far, use = self._use(best)
            places = self.points[(far / times.to(far.device)).topk(moving, dim=1).indices]
            idle = use.topk(moving, dim=1, largest=False).indices.unsqueeze(2).expand(-1, -1, dimensions)
            tried = self.run(best.scatter(1, idle, places), iterations, looks=False)
            found = self.inertia(tried)
            better = found < least
            best, least = torch.where(better[:, None, None], tried, best), torch.where(better, found, least)
        return best

    def inertia(self, centroids: Tensor) -> Tensor:
        """Sum of squared distances to the nearest centroid, of each start ``(starts,)``."""
        return (self._square - 2 * self._near(centroids)).clamp_min(0).sum(1)

    def labels(self, centroids: Tensor) -> Tensor:
        """Number of the nearest centroid of each point, for one start ``(1, clusters, dimensions)``."""
        return torch.cat([scores.argmax(2)[:, 0] for _, scores in self._blocks(centroids)])

    def _blocks(self, centroids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Points, block by block, and their closeness to centroids: ``x·c - c²/2``, ``(block, starts, clusters)``."""
        starts, clusters, _ = centroids.shape
        flat = centroids.flatten(0, 1)
        turned = flat.T
        square = flat.square().sum(1)
        rows = max(1, self._memory // (4 * self.points.element_size() * len(flat)))
        blocks = self.points.split(rows) if rows < len(self.points) else [self.points]

        for block in blocks:
            yield block, torch.addmm(square, block, turned, beta=-0.5).view(-1, starts, clusters)

    def _near(self, centroids: Tensor) -> Tensor:
        parts = [scores.amax(2).T for _, scores in self._blocks(centroids)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _moved(self, centroids: Tensor) -> Tensor:
        parts: tuple[Tensor, Tensor] | None = None
        for block, scores in self._blocks(centroids):
            some, few = self._summed(block, scores)
            parts = (some, few) if parts is None else (parts[0] + some, parts[1] + few)
        assert parts is not None
        sums, counts = parts[0].view_as(centroids), parts[1]
        counts = counts.view(*centroids.shape[:2], 1)
        return torch.where(counts > 0, sums / counts.clamp_min(1), centroids)

    def _summed(self, block: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and number of the points nearest to each centroid, start by start."""
        nearest, (_, starts, clusters) = scores.argmax(2), scores.shape
        if sums_by_products(block.device):
            own = torch.zeros_like(scores).scatter_(2, nearest.unsqueeze(2), 1).flatten(1)
            return own.T @ block, own.sum(0)
        place = (nearest + torch.arange(0, starts * clusters, clusters)).view(-1)
        rows = block.new_zeros(starts * clusters, block.shape[1])
        if block is not self.points or starts not in self._repeated:
            repeated = block.unsqueeze(1).expand(-1, starts, -1).reshape(len(place), -1)
            self._repeated = {starts: repeated} if block is self.points else {}
        else:
            repeated = self._repeated[starts]
        rows.index_add_(0, place, repeated)
        return rows, torch.bincount(place, minlength=len(rows)).to(block.dtype)

    def _use(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distance of each point, and the loss without each centroid: its points go to the second nearest."""
        far, lost = [], torch.zeros(centroids.shape[:2], dtype=self.points.dtype, device=self.points.device)
        start = 0
        for block, scores in self._blocks(centroids):
            top, place = scores.topk(2, dim=2)
            own = torch.zeros_like(scores).scatter_(2, place[:, :, :1], top[:, :, :1] - top[:, :, 1:])
            lost = lost + own.sum(0)
            far.append((self._square[start : start + len(block), None] - 2 * top[:, :, 0]).clamp_min_(0))
            start += len(block)
        return torch.cat(far).T, lost


def block_sizes(total: int, parts: int) -> list[int]:
    """Cut a whole into at most so many parts of growing size.

    Example:
        >>> block_sizes(10, 4), block_sizes(2, 4), block_sizes(0, 4)
        ([1, 2, 3, 4], [1, 1], [])
    """
    edges = [total * i * (i + 1) // (parts * (parts + 1)) for i in range(parts + 1)]
    sizes = [b - a for a, b in pairwise(edges) if b > a]
    return sizes if total > parts else [1] * total
