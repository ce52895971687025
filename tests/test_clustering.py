"""K-means against scikit-learn and plain definitions, and the degenerate cases that it mends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

import headstart as hs
from headstart.clustering import kmeans


def blobs(count: int = 600, clusters: int = 5, dims: int = 4, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(clusters, dims, generator=draw)
    labels = torch.randint(clusters, (count,), generator=draw)
    return centres[labels] + torch.randn(count, dims, generator=draw)


@pytest.mark.parametrize(
    ("algorithm", "reference"),
    [
        ("lloyd", KMeans(5, random_state=7, n_init=3, max_iter=50)),
        ("minibatch", MiniBatchKMeans(5, random_state=7, n_init=3, max_iter=50)),
    ],
)
def test_gives_what_scikit_learn_gives_on_one_thread(algorithm: str, reference: KMeans | MiniBatchKMeans) -> None:
    points = blobs()
    with threadpool_limits(limits=1):
        reference.fit(points.numpy())
    found = kmeans(points, 5, seed=7, algorithm=algorithm, n_init=3)
    np.testing.assert_array_equal(found.centroids.numpy(), reference.cluster_centers_)
    np.testing.assert_array_equal(found.labels.numpy(), reference.labels_)
    np.testing.assert_array_equal(found.sizes.numpy(), np.bincount(reference.labels_, minlength=5))
    assert found.inertia == pytest.approx(reference.inertia_)


def test_lloyd_ends_where_every_centroid_is_the_mean_of_the_points_nearest_to_it() -> None:
    points = blobs(400).double()
    found = kmeans(points, 5, seed=0, max_iter=300)
    nearest = torch.cdist(points, found.centroids).argmin(1)
    assert torch.equal(nearest, found.labels.long())
    for c, centroid in enumerate(found.centroids):
        torch.testing.assert_close(points[nearest == c].mean(0), centroid, atol=1e-4, rtol=0)
    inertia = float((points - found.centroids[nearest]).square().sum())
    assert found.inertia == pytest.approx(inertia, rel=1e-6)


def test_result_does_not_depend_on_the_number_of_threads() -> None:
    points = blobs(3000, 12, 9)
    results = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            results.append(kmeans(points, 12, seed=3).centroids)
    assert torch.equal(*results)


@given(
    distinct=st.integers(1, 6),
    copies=st.integers(1, 300),
    clusters=st.integers(1, 9),
    shift=st.sampled_from([0.0, 0.1, -37.3]),
    algorithm=st.sampled_from(["lloyd", "minibatch"]),
)
def test_never_more_clusters_than_distinct_points(
    distinct: int, copies: int, clusters: int, shift: float, algorithm: str
) -> None:
    kinds = 0.1 * torch.arange(distinct, dtype=torch.float32).reshape(-1, 1) * torch.tensor([[1.0, -2.0, 0.3]]) + shift
    points = kinds.repeat(copies, 1)
    found = kmeans(points, clusters, seed=0, algorithm=algorithm)
    assert 1 <= len(found.centroids) <= min(distinct, clusters)
    assert int(found.sizes.sum()) == len(points)
    assert torch.equal(torch.bincount(found.labels, minlength=len(found.centroids)), found.sizes)
    if clusters >= distinct and algorithm == "lloyd":
        torch.testing.assert_close(found.centroids[found.labels], points, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
@pytest.mark.parametrize("distinct", [1, 3, 9])
@pytest.mark.parametrize("shift", [0.0, 100.7])
def test_copies_that_differ_by_rounding_are_one_point(algorithm: str, distinct: int, shift: float) -> None:
    """As patches of one pattern in another brightness are, once their mean is gone."""
    draw = torch.Generator().manual_seed(0)
    kinds = torch.rand(distinct, 9, generator=draw)
    brighter = kinds[torch.randint(distinct, (20_000,), generator=draw)] + shift * torch.rand(20_000, 1, generator=draw)
    points = brighter - brighter.mean(1, keepdim=True)
    noise = 16 * torch.finfo(torch.float32).eps * float(brighter.norm(dim=1).max())
    found = kmeans(points, 16, seed=0, algorithm=algorithm, noise=noise)
    expected = kinds - kinds.mean(1, keepdim=True)
    assert len(found.centroids) == distinct
    assert torch.cdist(expected, found.centroids).min(1).values.max() < 2 * noise
    assert int(found.sizes.sum()) == 20_000


def test_one_copy_more_or_less_does_not_hide_that_points_are_many() -> None:
    points = torch.cat([torch.zeros(5000, 2), blobs(50, 5, 2)])
    found = kmeans(points, 20, seed=0)  # 51 points, of which a glance at every fourth sees 14
    assert len(found.centroids) == 20
    assert int(found.sizes.max()) >= 5000


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_precision_of_the_points_is_kept(dtype: torch.dtype) -> None:
    assert kmeans(blobs().to(dtype), 3, seed=0).centroids.dtype == dtype


def test_no_warning_and_no_duplicate_where_all_points_are_one() -> None:
    found = kmeans(torch.full((50, 3), 0.7), 4, seed=0)
    assert len(found.centroids) == 1
    assert found.sizes.tolist() == [50]


@pytest.mark.parametrize("points", [torch.empty(0, 3), torch.rand(5), torch.tensor([[0.0], [float("nan")]])])
def test_points_that_cannot_be_clustered_are_refused(points: Tensor) -> None:
    with pytest.raises(hs.DataError):
        kmeans(points, 2, seed=0)


def test_unknown_algorithm_is_refused_with_those_there_are() -> None:
    with pytest.raises(hs.HeadstartError, match=r"'elkan'.*lloyd.*minibatch"):
        kmeans(blobs(), 2, seed=0, algorithm="elkan")
