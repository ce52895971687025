"""Four distances between filters, each with its clustering.

- ``euclidean``: k-means on the weights as they are.
- ``cosine``: spherical k-means on directions; each centroid gets the mean norm of its cluster back.
- ``even``: k-means on the part of each kernel that stays the same when it is mirrored circularly,
  ``(w[x, y] + w[-x mod K, -y mod K]) / 2``. Ulm et al.'s code does this where their paper says "Fourier": it
  clusters the real part of the transform, which is the transform of that part. The centroids are even too.
- ``magnitude``: k-means on the magnitudes of the Fourier transform, as the paper says. A mean of magnitudes
  belongs to no kernel, so each centroid is the *medoid*: the filter whose magnitudes are nearest to the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headstart import rng
from headstart.errors import DataError, unknown
from headstart.numerics.clustering import kmeans, spherical_kmeans

DISTANCES = ("euclidean", "cosine", "even", "magnitude")
_BLOCK = 2**16  # atoms that are transformed at once
STARTS = 4  # of which the best is kept: one alone often leaves two clusters together and cuts another
_DEAD = 1e-6  # of the largest norm: a smaller filter has no direction


@dataclass(frozen=True)
class Found:
    """Clusters of filters, the largest first.

    Attributes:
        centroids: ``(found, *atom)``; ``found`` may be less than asked.
        deviations: Within each cluster, ``(found, *atom)``.
        sizes: Atoms in each cluster.
        labels: Cluster of each atom that took part.
        points: The vectors that were compared, ``(n, dimensions)``.
        inertia: Sum of squared distances to the centroids, in the distance used.
        left_out: Atoms that are zero: they have no direction, so ``cosine`` cannot place them.
    """

    centroids: Tensor
    deviations: Tensor
    sizes: Tensor
    labels: Tensor
    points: Tensor
    inertia: float
    left_out: int


def require_distance(name: str) -> None:
    """Raise unless there is a distance of that name.

    Raises:
        UnknownNameError: There is no such distance.
    """
    if name not in DISTANCES:
        raise unknown("distance", name, DISTANCES)


def even_part(kernels: Tensor, dims: int) -> Tensor:
    """The part of kernels that does not change when they are mirrored circularly, ``x -> -x mod K`` on all axes.

    Args:
        kernels: ``(..., *kernel)``.
        dims: How many axes the kernel has.

    Example:
        >>> even_part(torch.tensor([0.0, 1.0, 3.0]), 1)
        tensor([0., 2., 2.])
    """
    axes = tuple(range(-dims, 0))
    return (kernels + kernels.flip(axes).roll([1] * dims, axes)) / 2


def magnitudes(kernels: Tensor, dims: int) -> Tensor:
    """Magnitudes of the orthonormal Fourier transform: distances are in units of weights.

    Example:
        >>> magnitudes(torch.tensor([0.0, 3.0, 0.0, 0.0]), 1)
        tensor([1.5000, 1.5000, 1.5000, 1.5000])
    """
    axes = tuple(range(-dims, 0))
    return torch.cat([torch.fft.fftn(part, dim=axes, norm="ortho").abs() for part in kernels.split(_BLOCK)])


def cluster(atoms: Tensor, clusters: int, distance: str, dims: int, seed: int, name: str) -> Found:
    """Cluster filters.

    Args:
        atoms: ``(n, *atom)`` float32 on the CPU, finite; the last ``dims`` axes are the kernel's.
        clusters: How many to make. There are fewer if there are fewer distinct atoms.
        distance: One of :data:`DISTANCES`.
        dims: Axes of the kernel.
        seed: Names the random stream, together with ``name``.
        name: The name of the entry.

    Raises:
        DataError: All weights are zero, which leaves ``cosine`` no direction.
    """
    left_out = 0
    if distance == "cosine":
        norms = torch.linalg.vector_norm(atoms.flatten(1), dim=1)
        alive = norms > _DEAD * norms.max()
        left_out = len(atoms) - int(alive.sum())
        if left_out == len(atoms):
            raise DataError(f"All filters of {name} are zero and have no direction.", remedy="Use another distance.")
        atoms, norms = atoms[alive], norms[alive]
        points = atoms.flatten(1) / norms[:, None]
        draws = rng.generator(seed, "bank", name)
        starts = (spherical_kmeans(points, clusters, generator=draws) for _ in range(STARTS))
        found = min(starts, key=lambda start: start.inertia)
    else:
        if distance == "even":
            atoms = even_part(atoms, dims)
        points = (magnitudes(atoms, dims) if distance == "magnitude" else atoms).flatten(1)
        rounding = 16 * torch.finfo(points.dtype).eps * float(torch.linalg.vector_norm(points, dim=1).max())
        draw = rng.derive(seed, "bank", name) & 0x7FFFFFFF
        found = kmeans(points, clusters, seed=draw, algorithm="sklearn", n_init=STARTS, max_iter=50, noise=rounding)
    members = [torch.nonzero(found.labels == c).flatten() for c in range(len(found.sizes))]
    inertia = found.inertia
    if distance == "cosine":
        centroids = found.centroids * torch.stack([norms[m].mean() for m in members])[:, None]
    elif distance == "magnitude":
        medoids = torch.stack([_medoid(points, m) for m in members])
        inertia = sum(
            float((points[m] - points[i]).double().square().sum()) for m, i in zip(members, medoids, strict=True)
        )
        centroids = atoms[medoids]
    else:
        centroids = found.centroids
    centroids = centroids.reshape(-1, *atoms.shape[1:])
    if distance == "even":
        centroids = even_part(centroids, dims)  # exactly, not but for the rounding of a mean
    deviations = torch.stack([atoms[m].std(0, correction=0) for m in members])
    return _largest_first(Found(centroids, deviations, found.sizes, found.labels, points, inertia, left_out))


def _medoid(points: Tensor, members: Tensor) -> Tensor:
    """The member with the least sum of squared distances to the others: the one nearest to the mean."""
    own = points[members]
    return members[(own - own.mean(0)).square().sum(1).argmin()]


def _largest_first(found: Found) -> Found:
    order = found.sizes.argsort(descending=True, stable=True)
    return Found(
        found.centroids[order],
        found.deviations[order],
        found.sizes[order],
        order.argsort()[found.labels],
        found.points,
        found.inertia,
        found.left_out,
    )
