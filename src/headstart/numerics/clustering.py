"""K-means and spherical k-means on the points' own device. Only distinct centroids with points are returned.

scikit-learn's k-means is kept to repeat publications. It runs on one thread, since its results depend on the number.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController
from torch import Tensor

from headstart.errors import DataError, HeadstartError
from headstart.numerics.fetching import fetch
from headstart.numerics.lloyd import MEMORY, ROUNDS, Lloyd
from headstart.numerics.spherical import Directions

_SKLEARN = {"sklearn": KMeans, "minibatch": MiniBatchKMeans}
_ALGORITHMS = ("lloyd", *_SKLEARN)
GLANCE = 1024  # points of which is seen at once that there are more than clusters
SAME = 1e-4  # of the points' spread: centroids closer than that are one
SETTLING = 4  # iterations before centroids that serve little are moved
MOVED = 2  # iterations after each


@dataclass(frozen=True)
class Clusters:
    """Result of :func:`kmeans`.

    Attributes:
        centroids: ``(found, dimensions)``; ``found`` may be less than asked.
        sizes: Points in each cluster, ``(found,)``.
        labels: Cluster of each point, ``(points,)``.
        inertia: Sum of squared distances to the centroids.
    """

    centroids: Tensor
    sizes: Tensor
    labels: Tensor
    inertia: float


def kmeans(
    points: Tensor,
    clusters: int,
    *,
    seed: int,
    algorithm: str = "lloyd",
    n_init: int = 8,
    max_iter: int = 10,
    moves: int = 8,
    noise: float = 0.0,
) -> Clusters:
    """Cluster points by Euclidean distance.

    Args:
        points: ``(n, dimensions)``, any floating dtype and device.
        clusters: How many to make. There are fewer if there are fewer distinct points.
        seed: 32-bit seed; the result does not depend on the number of threads.
        algorithm: ``"lloyd"``: full k-means on the points' device, started as in k-means++; centroids that
            explain little are moved to where points fit worst. ``"sklearn"`` and ``"minibatch"`` are scikit-learn's.
        n_init: The number of starts; the best is kept.
        max_iter: The largest number of iterations, not counting those before the last move.
        moves: How often centroids that explain little are moved (``"lloyd"``). Fewer moves cost, and explain, a bit
            less.
        noise: Points and centroids this close count as one; at least those within 1e-4 of the points' spread do.

    Returns:
        Centroids on the device and in the dtype of ``points``.

    Raises:
        DataError: No points, or values that are not finite.

    Example:
        >>> found = kmeans(torch.tensor([[0.0], [0.0], [4.0]]), 3, seed=0)
        >>> sorted(found.centroids.flatten().tolist()), sorted(found.sizes.tolist())
        ([0.0, 4.0], [1, 2])
    """
    if algorithm not in _ALGORITHMS:
        raise HeadstartError(f"algorithm={algorithm!r} is not known.", remedy=f"Choose one of {_ALGORITHMS}.")
    if points.dim() != 2 or len(points) == 0 or clusters < 1:
        raise DataError(f"Cannot make {clusters} clusters of points of shape {tuple(points.shape)}.")
    wide = points.detach() if points.dtype == torch.float64 else points.detach().float()
    centred = wide - wide.mean(0)
    glance = centred[:: max(1, len(centred) // GLANCE)]
    seen, spread = fetch([glance.flatten(), torch.linalg.vector_norm(centred, dim=1).amax()])
    if not np.isfinite(spread[0]):
        raise DataError("Points to cluster hold NaN or infinite values.")
    same = max(noise, SAME * float(spread[0]))
    few = _few(wide, seen.reshape(glance.shape), clusters, same)
    if few is not None:
        centroids, labels = few
    elif algorithm in _SKLEARN:
        model = _SKLEARN[algorithm](min(clusters, len(points)), random_state=seed, n_init=n_init, max_iter=max_iter)
        with warnings.catch_warnings(), ThreadpoolController().limit(limits=1):
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = model.fit(np.ascontiguousarray(wide.cpu().numpy())).labels_
        return _merged(model.cluster_centers_, labels, same, float(model.inertia_), points)
    else:
        lloyd, draws = Lloyd(centred), torch.Generator().manual_seed(seed)
        found = lloyd.run(lloyd.start(min(clusters, len(points)), n_init, draws), SETTLING)
        found = lloyd.run(lloyd.improve(found, draws, moves, MOVED), max_iter)
        found = found[lloyd.inertia(found).argmin().view(1)]
        labels = lloyd.labels(found).cpu().numpy()
        centroids = (found[0] + wide.mean(0)).cpu().numpy()
    owner = torch.as_tensor(labels).to(wide.device)
    means = torch.as_tensor(centroids).to(wide)
    inertia = float((wide - means[owner]).square().sum(dtype=torch.float64))
    return _merged(centroids, labels, same, inertia, points)


def spherical_kmeans(
    points: Tensor,
    clusters: int,
    *,
    generator: torch.Generator,
    max_iter: int = 30,
    rounds: int = ROUNDS,
    looks: bool = True,
    memory: int = MEMORY,
) -> Clusters:
    """Cluster directions: every point goes to the centroid with the largest cosine; every centroid has length 1.

    Args:
        points: ``(n, dimensions)`` of length 1.
        clusters: How many to make. There are fewer if there are fewer distinct directions.
        generator: Draws the start, on the CPU: points far from the earlier centroids are likelier.
        max_iter: The largest number of iterations.
        rounds: The number of rounds in which the start is drawn.
        looks: Whether to stop when nothing changes any more, which reads from the device every few iterations.
        memory: Limit in bytes for the comparison of points with centroids.

    Returns:
        Centroids of length 1 (Dhillon and Modha 2001), labels and all else on the device of ``points``.

    Raises:
        DataError: No points.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> found = spherical_kmeans(points, 3, generator=torch.Generator().manual_seed(0))
        >>> sorted(found.centroids.tolist()), found.inertia
        ([[0.0, 1.0], [1.0, 0.0]], 0.0)
    """
    if len(points) == 0 or clusters < 1:
        raise DataError(f"Cannot make {clusters} clusters of points of shape {tuple(points.shape)}.")
    directions = Directions(points, memory=memory)
    start = directions.start(min(clusters, len(points)), generator, rounds)
    centroids, _ = directions.run(start, max_iter, looks=looks)
    labels = directions.labels(centroids)
    counts = torch.zeros(len(centroids), dtype=torch.long, device=points.device)
    counts.scatter_add_(0, labels, torch.ones_like(labels))
    total = (points - centroids[labels]).square().sum(dtype=torch.float64)
    sizes, inertia = fetch([counts, total])
    kept = torch.as_tensor(np.flatnonzero(sizes)).to(points.device)
    renumber = (counts > 0).cumsum(0) - 1
    return Clusters(centroids[kept], counts[kept], renumber[labels], float(inertia[0]))


def _few(
    points: Tensor, glance: NDArray[np.float64], clusters: int, same: float
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """The distinct points and each point's number among them, if there are no more than clusters; else None."""

    def cells(array: NDArray[Any]) -> NDArray[Any]:
        return np.round((array - array[0]) / same) if same > 0 else np.zeros_like(array)

    if len(np.unique(cells(glance), axis=0)) > clusters:
        return None
    array = points.cpu().numpy()
    _, inverse, sizes = np.unique(cells(array), axis=0, return_inverse=True, return_counts=True)
    if len(sizes) > clusters:
        return None
    labels = inverse.reshape(-1)
    sums = np.zeros((len(sizes), array.shape[1]))
    np.add.at(sums, labels, array)
    return (sums / sizes[:, None]).astype(array.dtype), labels


def _merged(centroids: NDArray[Any], labels: NDArray[Any], same: float, inertia: float, like: Tensor) -> Clusters:
    """Keep the distinct centroids that have points, in their order."""
    owner = (cdist(centroids, centroids) <= same).argmax(1)  # the first that is the same, often itself
    sizes = np.bincount(owner[labels], minlength=len(centroids))
    kept = np.flatnonzero(sizes > 0)
    renumber = np.full(len(centroids), -1)
    renumber[kept] = np.arange(len(kept))
    return Clusters(
        torch.as_tensor(centroids[kept]).to(like),
        torch.as_tensor(sizes[kept]),
        torch.as_tensor(renumber[owner[labels]]),
        inertia,
    )
