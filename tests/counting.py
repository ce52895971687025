"""Counts of what a call asks of the device: tensor operations, and reads of a number back to Python.

Counts are exact and the same on every machine. On an accelerator an operation is a launch, and a read stops until all
work is done.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

METHODS = ("item", "tolist", "cpu", "numpy", "__bool__", "__array__", "__int__", "__float__", "__index__")
READING = {"nonzero", "unique_dim", "_unique2", "unique_consecutive", "equal", "masked_select"}


class Counts:
    """What was counted.

    Attributes:
        operations: By name and by the package's own line that asked for it.
        reads: Likewise.
    """

    def __init__(self) -> None:
        self.operations: Counter[tuple[str, str]] = Counter()
        self.reads: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._local = threading.local()

    def operation(self, name: str) -> None:
        """Count one operation."""
        with self._lock:
            self.operations[name, _line()] += 1

    @contextlib.contextmanager
    def read(self, name: str) -> Iterator[None]:
        """Count one read, and none of those that it consists of."""
        inside = getattr(self._local, "inside", False)
        if not inside:
            with self._lock:
                self.reads[name, _line()] += 1
        self._local.inside = True
        try:
            yield
        finally:
            self._local.inside = inside

    def __str__(self) -> str:
        return f"{self.operations.total()} operations, {self.reads.total()} reads"


class _Mode(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        boolean = any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)
        if name in ("_local_scalar_dense", "is_nonzero"):
            with self._counts.read("number"):
                return func(*args, **(kwargs or {}))
        self._counts.operation(name)
        if boolean or name in READING:
            with self._counts.read(name):
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def counted() -> Iterator[Counts]:
    """Count in this thread, and in those that are started inside."""
    counts = Counts()
    kept = {name: getattr(Tensor, name) for name in METHODS}
    run = threading.Thread.run

    def reading(name: str, method: Any) -> Any:
        def call(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            with counts.read(name):
                return method(self, *args, **kwargs)

        return call

    def counted_run(thread: threading.Thread) -> None:
        with _Mode(counts):
            run(thread)

    try:
        for name, method in kept.items():
            setattr(Tensor, name, reading(name, method))
        threading.Thread.run = counted_run  # type: ignore[method-assign]
        with _Mode(counts):
            yield counts
    finally:
        threading.Thread.run = run  # type: ignore[method-assign]
        for name, method in kept.items():
            setattr(Tensor, name, method)


def _line() -> str:
    """The innermost line of the package that is running."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/headstart/" in name:
            return f"{name.rpartition('/headstart/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside"
