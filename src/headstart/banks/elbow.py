"""How many clusters to choose: what each number explains, and how well its clusters are separated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from sklearn.metrics import silhouette_score
from threadpoolctl import ThreadpoolController

from headstart import rng
from headstart.banks.build import BINS, SAMPLE
from headstart.banks.distances import Found, cluster, require_distance
from headstart.banks.gather import Progress, gather
from headstart.banks.source_filters import Model, Names
from headstart.errors import HeadstartError
from headstart.results.display import Displayable, Table, number

KS = (2, 3, 5, 10, 20, 30)
_POINTS = 1000  # that a silhouette is measured on: it takes all their pairs


@dataclass(frozen=True)
class Tried:
    """One number of clusters for one group of filters.

    Attributes:
        group: Name of the layer or pool.
        clusters: How many were requested.
        found: How many there are.
        inertia: Sum of squared distances to the centroids.
        explained: The share by which a single cluster's inertia is reduced: 0 for one cluster, 1 for exact copies.
        silhouette: Between -1 and 1, on a sample of filters: 1 if clusters are far apart, about 0 if they
            touch, as they do in a cloud without gaps. None for a single cluster.
    """

    group: str
    clusters: int
    found: int
    inertia: float
    explained: float
    silhouette: float | None


@dataclass
class Elbow(Displayable):
    """The result of :func:`elbow`: a table per measure, one row per group.

    Attributes:
        title: What was measured.
        tried: Every number of clusters of every group.
    """

    title: str
    tried: list[Tried]

    def best(self) -> dict[str, int]:
        """For each group, the number of clusters with the largest silhouette (the smallest among equals)."""
        found: dict[str, Tried] = {}
        for row in self.tried:
            known = found.get(row.group)
            if row.silhouette is not None and (known is None or row.silhouette > (known.silhouette or -1.0) + 1e-12):
                found[row.group] = row
        return {group: row.clusters for group, row in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"title": self.title, "best": self.best(), "tried": [asdict(row) for row in self.tried]}

    def sentences(self) -> list[str]:
        """How to read the tables."""
        best = self.best()
        if not best or len({row.clusters for row in self.tried if row.silhouette is not None}) < 2:
            return []
        counts = sorted(best.values())
        return [
            f"The silhouette is largest at {counts[len(counts) // 2]} clusters in the median"
            f" (from {counts[0]} to {counts[-1]} over the groups).",
            "Below about 0.25 there are no real clusters, only a cloud that can be cut into any number: then more"
            " clusters keep more detail, and fewer average more away.",
        ]

    def to_tables(self) -> list[Table]:
        """Explained share and silhouette by number of clusters."""
        ks = sorted({row.clusters for row in self.tried})
        groups = list(dict.fromkeys(row.group for row in self.tried))
        by = {(row.group, row.clusters): row for row in self.tried}
        columns = ["filters", *map(str, ks)]
        explained = [[g, *(number(by[g, k].explained) for k in ks)] for g in groups]
        silhouette = [[g, *(number(by[g, k].silhouette) for k in ks)] for g in groups]
        return [Table(columns, explained, "explained share, by clusters"), Table(columns, silhouette, "silhouette")]


def elbow(
    models: Iterable[Model] | Model,
    ks: Sequence[int] = KS,
    *,
    distance: str = "euclidean",
    pool: bool = False,
    whole: bool = False,
    include: Names = None,
    exclude: Names = None,
    seed: int | torch.Generator = 0,
    bins: int = BINS,
    sample: int = SAMPLE,
    progress: Progress | None = None,
) -> Elbow:
    """Cluster with several numbers of clusters, to choose one.

    Args:
        models: As for ``FilterBank.from_models``, like all arguments that are not described here.
        ks: Numbers of clusters to try.
        distance: The distance of the clusters and of the silhouette.
        pool: Pool filters of a kernel size and depth.
        whole: Cluster whole filters.
        include: Only these layers.
        exclude: Not these layers.
        seed: The same seed gives the same table.
        bins: The bins of relative depth, when pooled.
        sample: At most this many weights per group.
        progress: Called as ``progress(what, done, total)``.

    Returns:
        A table to print, and its numbers.

    Raises:
        HeadstartError: As for ``FilterBank.from_models``.

    Example:
        >>> conv = torch.nn.Conv2d(1, 3, 3)
        >>> with torch.no_grad():
        ...     conv.weight.copy_(torch.eye(9)[:3].reshape(3, 1, 3, 3))
        Parameter containing: ...
        >>> [round(row.explained, 3) for row in elbow(conv, (1, 2, 3)).tried]
        [0.0, 0.5, 1.0]
    """
    require_distance(distance)
    if not ks or min(ks) < 1:
        raise HeadstartError(f"ks={list(ks)} are not all numbers of at least 1.")
    seed = rng.seed_of(seed)
    how: dict[str, Any] = {"pool": pool, "bins": bins, "whole": whole, "include": include, "exclude": exclude}
    groups = gather(models, **how, sample=sample, seed=seed, progress=progress).groups
    tried = []
    for done, group in enumerate(groups):
        if progress is not None:
            progress("clustering", done, len(groups))
        atoms = group.filters.take()
        single = cluster(atoms, 1, distance, len(group.kernel), seed, group.name).inertia
        for k in sorted(set(ks)):
            found = cluster(atoms, k, distance, len(group.kernel), seed, group.name)
            explained = 1 - found.inertia / single if single > 0 else 1.0
            score = _silhouette(found, distance, seed, group.name)
            tried.append(Tried(group.name, k, len(found.sizes), found.inertia, explained, score))
    return Elbow(f"Clusters by {distance} distance", tried)


def _silhouette(found: Found, distance: str, seed: int, name: str) -> float | None:
    order = torch.randperm(len(found.points), generator=rng.generator(seed, "silhouette", name))[:_POINTS]
    points, labels = found.points[order].numpy(), found.labels[order].numpy()
    if not 1 < len(set(labels.tolist())) < len(labels):
        return None
    with ThreadpoolController().limit(limits=1):
        return float(silhouette_score(points, labels, metric="cosine" if distance == "cosine" else "euclidean"))
