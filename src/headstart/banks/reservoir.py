"""A uniform sample of a stream of filters, of bounded size. It does not depend on how the stream is cut."""

from __future__ import annotations

import torch
from torch import Tensor


class Reservoir:
    """The filters seen so far: all of them, or a uniform sample once there are too many.

    Each filter gets a random number; the filters with the smallest numbers are kept.

    Args:
        weights: At most this many weights are kept (a quarter more while filters are added).
        generator: Draws the numbers.

    Attributes:
        seen: The number of filters seen.
        squares: The sum of squares of all their weights.
    """

    def __init__(self, weights: int, generator: torch.Generator) -> None:
        self._weights, self._generator = weights, generator
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._held, self._below = 0, 1.0
        self.seen, self.squares = 0, 0.0

    def add(self, atoms: Tensor) -> None:
        """Add filters, ``(n, *atom)``; the kept ones are copied."""
        self.seen += len(atoms)
        self.squares += float(torch.linalg.vector_norm(atoms, dtype=torch.float64)) ** 2
        keys = torch.rand(len(atoms), generator=self._generator, dtype=torch.float64)
        kept = keys < self._below
        self._parts.append((atoms.cpu()[kept].float(), keys[kept]))
        self._held += int(kept.sum())
        if self._held > 1.25 * self._room(atoms):
            self._shrink()

    def take(self) -> Tensor:
        """The sample, in the order in which its filters were added."""
        self._shrink()
        ((atoms, _),) = self._parts
        return atoms

    def _room(self, atoms: Tensor) -> int:
        return max(1, self._weights // max(1, atoms[:1].numel()))

    def _shrink(self) -> None:
        atoms, keys = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        room = self._room(atoms)
        if len(atoms) > room:
            kept = keys.topk(room, largest=False).indices.sort().values
            atoms, keys = atoms[kept], keys[kept]
            self._below = float(keys.max())
        self._parts, self._held = [(atoms, keys)], len(atoms)
