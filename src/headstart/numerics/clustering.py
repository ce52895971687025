"""K-means on scikit-learn with its degenerate cases mended, and spherical k-means, which it lacks.

scikit-learn's results depend on the number of threads, and with fewer distinct points than clusters it
warns and returns duplicates. Here one thread computes, and only distinct, occupied centroids come back.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController
from torch import Tensor

from headstart.errors import DataError, HeadstartError

_ALGORITHMS = ("lloyd", "minibatch")
SAME = 1e-4  # of the points' spread: centroids closer than that are one
ALIKE = 1e-6  # of 1 - cosine, above the rounding of float32: directions closer than that are one


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
    n_init: int = 1,
    max_iter: int = 50,
    noise: float = 0.0,
) -> Clusters:
    """Cluster points by Euclidean distance.

    Args:
        points: ``(n, dimensions)``, any floating dtype and device.
        clusters: How many are asked for. Fewer come back when there are fewer distinct points.
        seed: 32-bit seed; the result does not depend on the number of threads.
        algorithm: ``"lloyd"`` (full k-means) or ``"minibatch"``.
        n_init: Starts, of which the best is kept.
        max_iter: Iterations at most.
        noise: Points and centroids this close are one, and at least those within 1e-4 of the points' spread.

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
    if not torch.isfinite(points).all():
        raise DataError("Points to cluster hold NaN or infinite values.")
    wide = points if points.dtype == torch.float64 else points.float()
    array = np.ascontiguousarray(wide.detach().cpu().numpy())
    spread = float(np.linalg.norm(array - array.mean(0), axis=1).max())
    same = max(noise, SAME * spread)
    few = _few(array, clusters, same)
    if few is not None:
        centroids, labels = few
    else:
        cls = KMeans if algorithm == "lloyd" else MiniBatchKMeans
        model = cls(min(clusters, len(array)), random_state=seed, n_init=n_init, max_iter=max_iter)
        with warnings.catch_warnings(), ThreadpoolController().limit(limits=1):
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = model.fit(array).labels_
        centroids = model.cluster_centers_
    inertia = float(model.inertia_) if few is None else float(((array - centroids[labels]) ** 2).sum())
    return _merged(centroids, labels, same, inertia, points)


def spherical_kmeans(points: Tensor, clusters: int, *, generator: torch.Generator, max_iter: int = 30) -> Clusters:
    """Cluster directions: every point goes to the centroid of the largest cosine, every centroid has length 1.

    Args:
        points: ``(n, dimensions)`` of length 1, on the CPU.
        clusters: How many are asked for. Fewer come back when there are fewer distinct directions.
        generator: Draws the start: each centroid a point, the likelier the farther from those before (k-means++).
        max_iter: Iterations at most.

    Returns:
        Centroids of length 1 (Dhillon and Modha 2001).

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
    centroids = far_apart(points, clusters, generator)
    clusters, labels = len(centroids), torch.full((len(points),), -1)
    for _ in range(max_iter):
        cosine, nearest = (points @ centroids.T).max(1)
        if torch.equal(nearest, labels):
            break
        labels = nearest
        sums = torch.zeros_like(centroids).index_add_(0, labels, points)
        empty = torch.bincount(labels, minlength=clusters) == 0
        sums[empty] = points[cosine.topk(int(empty.sum()), largest=False).indices]  # those that fit worst
        length = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
        centroids = torch.where(length > SAME, sums / length.clamp_min(SAME), centroids)
    sizes = torch.bincount(labels, minlength=clusters)
    renumber = (sizes > 0).cumsum(0) - 1
    centroids, labels = centroids[sizes > 0], renumber[labels]
    inertia = float((points - centroids[labels]).square().sum())
    return Clusters(centroids, sizes[sizes > 0], labels, inertia)


def far_apart(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Distinct points of length 1, each drawn in proportion to its squared distance from the nearest one before.

    The start of k-means++ (Arthur and Vassilvitskii 2007), for cosines. Fewer come back when fewer are distinct.
    """
    chosen: list[Tensor] = []
    far = torch.ones(len(points), dtype=torch.float64)
    for draw in torch.rand(clusters, generator=generator, dtype=torch.float64):
        total = far.cumsum(0)
        if not total[-1] > 0:
            break
        point = points[min(int(torch.searchsorted(total, draw * total[-1], right=True)), len(points) - 1)]
        chosen.append(point)
        distance = (1 - points @ point).double()
        far = torch.minimum(far, torch.where(distance > ALIKE, distance, 0))
    return torch.stack(chosen)


def _few(array: np.ndarray, clusters: int, same: float) -> tuple[np.ndarray, np.ndarray] | None:
    """The distinct points and who is which, if there are no more of them than clusters; otherwise None."""

    def cells(points: np.ndarray) -> np.ndarray:
        return np.round((points - array[0]) / same) if same > 0 else np.zeros_like(points)

    glance = cells(array[:: max(1, len(array) // 1024)])
    if len(np.unique(glance, axis=0)) > clusters:
        return None
    _, inverse, sizes = np.unique(cells(array), axis=0, return_inverse=True, return_counts=True)
    if len(sizes) > clusters:
        return None
    labels = inverse.reshape(-1)
    sums = np.zeros((len(sizes), array.shape[1]))
    np.add.at(sums, labels, array)
    return (sums / sizes[:, None]).astype(array.dtype), labels


def _merged(centroids: np.ndarray, labels: np.ndarray, same: float, inertia: float, like: Tensor) -> Clusters:
    """Keep the occupied, distinct centroids in their order."""
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
