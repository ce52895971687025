"""Networks that the benchmarks run on, each at the image size that it is measured at."""

from __future__ import annotations

from torch import nn

from headstart.bench.models.builders import resolve_model

_CIFAR = "cifar-"


def build(name: str) -> tuple[nn.Module, int]:
    """Return a network of the package and the image size that it is measured at."""
    cifar = name.startswith(_CIFAR)
    size = 32 if cifar else 64
    return resolve_model(f"headstart:{name}")(3, 10 if cifar else 1000, (size, size)), size
