"""Random numbers drawn in threads while the device computes: the same bits, since every layer has its own stream."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from headstart import rng

AHEAD = 2**28  # bytes that wait at most
THREADS = 8


@dataclass(frozen=True)
class Draw:
    """Standard normal values that a layer will ask for.

    Attributes:
        layer: Its name.
        purpose: Names the stream, together with the seed and the layer.
        shape: The shape of the values.
        dtype: The dtype of the values.
    """

    layer: str
    purpose: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def draw(seed: int, wanted: Draw, pin: bool = False) -> Tensor:
    """Draw the values, on the CPU."""
    generator = rng.generator(seed, wanted.layer, wanted.purpose)
    with torch.no_grad():  # which holds for one thread
        return torch.randn(wanted.shape, generator=generator, dtype=wanted.dtype, pin_memory=pin)


class DrawsAhead:
    """Draws values in the order in which layers will ask for them.

    Args:
        seed: The seed of the call.
        wanted: The draws, in the order of execution.
        pin: Draw into pinned memory, from which an accelerator copies while it computes.
        threads: How many threads draw at the same time.
        ahead: How many bytes may wait; a single draw may be larger.
    """

    def __init__(
        self, seed: int, wanted: Iterable[Draw], *, pin: bool = False, threads: int = 0, ahead: int = AHEAD
    ) -> None:
        self._seed, self._pin, self._ahead = seed, pin, ahead
        self._wanted = deque(wanted)
        self._drawn: deque[tuple[Draw, Future[Tensor]]] = deque()
        self._threads = ThreadPoolExecutor(threads or min(THREADS, os.cpu_count() or 1), "headstart-draws")

    def __enter__(self) -> DrawsAhead:
        self._fill()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._threads.shutdown(cancel_futures=True)

    @property
    def waiting(self) -> int:
        """Bytes that are drawn or being drawn, and not yet taken."""
        return sum(wanted.size for wanted, _ in self._drawn)

    def take(self, wanted: Draw) -> Tensor | None:
        """Take what was drawn for a layer; None if it was not asked for ahead. Drops the draws before it."""
        if all(drawn != wanted for drawn, _ in self._drawn):
            return None
        found = None
        while self._drawn and found is None:
            first, future = self._drawn.popleft()
            found = future.result() if first == wanted else None
        self._fill()
        return found

    def _fill(self) -> None:
        while self._wanted and (not self._drawn or self.waiting + self._wanted[0].size <= self._ahead):
            wanted = self._wanted.popleft()
            self._drawn.append((wanted, self._threads.submit(draw, self._seed, wanted, self._pin)))


def worth(devices: Sequence[torch.device]) -> bool:
    """Whether to draw ahead: where a device other than the CPU computes meanwhile."""
    return any(device.type != "cpu" for device in devices)
