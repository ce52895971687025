"""The options of every callback, and the one call that all of them make."""

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
    """The error of an integration whose host cannot be imported.

    Args:
        name: The name of the host, and of its module here.
        package: Its name for pip.
        error: The error of the import.
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
        report: The report of the start; None before the start, and in a resumed training.
    """

    def __init__(
        self, method: MethodLike = "auto", data: Any = None, *, seed: int = 0, module: str = "", **options: Any
    ) -> None:
        self.method, self.data, self.seed, self.module, self.options = method, data, seed, module, options
        self.report: Report | None = None

    def start(self, model: nn.Module, data: Any, **options: Any) -> None:
        """Start the model on rank 0 and send its values to all ranks. Parameters stay the same objects.

        Args:
            model: The host's model, on its own device and in its own mode.
            data: The host's training data, used if the callback was given none.
            **options: Defaults of the host; the user's options override them.
        """
        given = data if self.data is None else self.data
        chosen = {**(options if self.data is None else {}), **self.options}
        with rng.untouched():
            self.report = distributed.initialize(
                model.get_submodule(self.module), given, self.method, seed=self.seed, **chosen
            )


def fresh(loader: Any, seed: int, samples: int | None = None) -> Any:
    """Return a loader of some of the same samples, drawn by seed, so that the host's own loader does not advance.

    Args:
        loader: The host's loader. It is returned as it is if its data set is not map-style.
        seed: The seed of the draw.
        samples: How many; by default 8 batches of the loader, at most 256 samples.
    """
    dataset = getattr(loader, "dataset", None)
    if not (isinstance(dataset, Sized) and hasattr(dataset, "__getitem__") and hasattr(loader, "collate_fn")):
        return loader
    usual = min(_SAMPLES, _BATCHES * (getattr(loader, "batch_size", None) or _SAMPLES))
    count = min(samples or usual, len(dataset))
    order = torch.randperm(len(dataset), generator=rng.generator(seed, "data"))[:count].tolist()
    return DataLoader(Subset(dataset, order), batch_size=count, collate_fn=loader.collate_fn)  # type: ignore[arg-type]
