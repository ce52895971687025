"""What every callback is told, and the one call that all of them make."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from headstart import distributed, rng
from headstart.api import MethodLike
from headstart.errors import MissingHostError
from headstart.results.report import Report

_SAMPLES, _BATCHES = 256, 8


def missing_host(name: str, package: str, error: ImportError) -> MissingHostError:
    """The error of an integration whose host does not import.

    Args:
        name: Of the host, and of its module here.
        package: What pip installs.
        error: What importing it raised.
    """
    return MissingHostError(
        f"headstart.integrations.{name} needs the package '{package}', which is not installed or does not import"
        f" ({error}).",
        remedy=f"Install it with: pip install {package}.",
    )


class Starter:
    """Start a model once.

    Args:
        method: As for :func:`headstart.initialize`.
        data: Likewise; by default the host's own training data.
        seed: Likewise.
        module: The name of the submodule to start, for a model whose own ``forward`` is not the network's.
        **options: The others of :func:`headstart.initialize`: ``include``, ``exclude``, ``samples``, ...

    Attributes:
        report: Of the start; None as long as there was none, also after a resumed training.
    """

    def __init__(
        self, method: MethodLike = "auto", data: Any = None, *, seed: int = 0, module: str = "", **options: Any
    ) -> None:
        self.method, self.data, self.seed, self.module, self.options = method, data, seed, module, options
        self.report: Report | None = None

    def start(self, model: nn.Module, data: Any, **options: Any) -> None:
        """Start the model on rank 0 and give all ranks its values; parameters stay the objects that they are.

        Args:
            model: The host's, in its own device and mode.
            data: The host's training data, which is used if the callback was given none.
            **options: What the host knows better than the defaults, and less well than the user.
        """
        given = data if self.data is None else self.data
        chosen = {**(options if self.data is None else {}), **self.options}
        with rng.untouched():
            self.report = distributed.initialize(
                model.get_submodule(self.module), given, self.method, seed=self.seed, **chosen
            )


def fresh(loader: Any, seed: int, samples: int | None = None) -> Any:
    """Return a loader of some of the same samples, drawn by seed, so that the host's own is not advanced.

    Args:
        loader: The host's. One without a map-style data set is returned as it is.
        seed: Names the draw.
        samples: How many; by default 8 of the loader's batches, and no more than 256.
    """
    dataset = getattr(loader, "dataset", None)
    if not (isinstance(dataset, Sized) and hasattr(dataset, "__getitem__") and hasattr(loader, "collate_fn")):
        return loader
    usual = min(_SAMPLES, _BATCHES * (getattr(loader, "batch_size", None) or _SAMPLES))
    count = min(samples or usual, len(dataset))
    order = torch.randperm(len(dataset), generator=rng.generator(seed, "data"))[:count].tolist()
    return DataLoader(Subset(dataset, order), batch_size=count, collate_fn=loader.collate_fn)  # type: ignore[arg-type]
