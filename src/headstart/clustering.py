"""K-means on scikit-learn with its degenerate cases mended.

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
