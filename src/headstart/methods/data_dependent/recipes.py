"""Recipes: methods that belong together, as lists that ``initialize`` takes."""

from __future__ import annotations

from typing import Any

from headstart.engine.method import Method
from headstart.methods.data_dependent.balance import Balance
from headstart.methods.data_dependent.within_layer import WithinLayer


def DataDependent(fill: str = "gaussian", **options: Any) -> list[Method]:  # noqa: N802 - named and used as a method
    """Krähenbühl et al. with this package's defaults: fill, normalize within layers, balance between them.

    Layers that a normalization follows keep their weights and only take the common rate; on a network without
    normalization every layer is filled and normalized. On the command line: ``within-layer+balance``.

    Args:
        fill: Of `WithinLayer`.
        options: Its other options.

    Returns:
        The methods, in order.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
        >>> hs.initialize(net, torch.randn(64, 20), hs.DataDependent()).changed
        ['0', '2']
    """
    return [WithinLayer(fill=fill, **options), Balance()]


def KrahenbuhlKMeans(**options: Any) -> list[Method]:  # noqa: N802
    """The paper's best: filters from k-means on the layers' inputs, normalized within layers, balanced between them.

    As the authors' command line has it (beta 0.1, every layer). On the command line: ``within-layer:kmeans+balance``.

    Args:
        options: Of `WithinLayer`.

    Returns:
        The methods, in order.
    """
    return [WithinLayer.kmeans(**options), Balance()]
