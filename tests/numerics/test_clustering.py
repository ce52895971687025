"""K-means against scikit-learn and plain definitions, and the degenerate cases that it mends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.datasets import load_sample_images
from threadpoolctl import threadpool_limits
from torch import Tensor

import headstart as hs
from headstart.banks import FilterBank, shipped
from headstart.numerics import spherical
from headstart.numerics.clustering import kmeans, spherical_kmeans
from headstart.numerics.lloyd import Lloyd
from headstart.numerics.spherical import Directions


def blobs(count: int = 600, clusters: int = 5, dims: int = 4, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(clusters, dims, generator=draw)
    labels = torch.randint(clusters, (count,), generator=draw)
    return centres[labels] + torch.randn(count, dims, generator=draw)


@pytest.mark.parametrize(
    ("algorithm", "reference"),
    [
        ("sklearn", KMeans(5, random_state=7, n_init=3, max_iter=50)),
        ("minibatch", MiniBatchKMeans(5, random_state=7, n_init=3, max_iter=50)),
    ],
)
def test_gives_what_scikit_learn_gives_on_one_thread(algorithm: str, reference: KMeans | MiniBatchKMeans) -> None:
    points = blobs()
    with threadpool_limits(limits=1):
        reference.fit(points.numpy())
    found = kmeans(points, 5, seed=7, algorithm=algorithm, n_init=3, max_iter=50)
    np.testing.assert_array_equal(found.centroids.numpy(), reference.cluster_centers_)
    np.testing.assert_array_equal(found.labels.numpy(), reference.labels_)
    np.testing.assert_array_equal(found.sizes.numpy(), np.bincount(reference.labels_, minlength=5))
    assert found.inertia == pytest.approx(reference.inertia_)


def photograph_patches(count: int, side: int) -> Tensor:
    """Patches of a photograph, each without its mean."""
    image = torch.tensor(load_sample_images().images[0]).float().movedim(2, 0) / 255
    draw = torch.Generator().manual_seed(0)
    rows, columns = (torch.randint(size - side, (count,), generator=draw) for size in image.shape[1:])
    taken = torch.stack([image[:, r : r + side, c : c + side].flatten() for r, c in zip(rows, columns, strict=True)])
    return taken - taken.mean(1, keepdim=True)


def trained_filters() -> Tensor:
    """3×3 slices of trained networks, as the shipped bank holds them."""
    entries = [entry for name in shipped() for entry in FilterBank.load(name).entries]
    atoms = torch.cat([e.centroids.flatten(1) for e in entries if tuple(e.centroids.shape[1:]) == (3, 3)])
    spread = torch.randn(6, *atoms.shape, generator=torch.Generator().manual_seed(0))
    return (atoms + 0.2 * atoms.std() * spread).flatten(0, 1)


@pytest.mark.parametrize("clusters", [8, 32, 96])
@pytest.mark.parametrize("kind", ["patches", "large patches", "filters", "blobs"])
def test_explains_as_much_as_the_best_of_three_starts_of_scikit_learn(kind: str, clusters: int) -> None:
    points = {
        "patches": lambda: photograph_patches(3000, 3),
        "large patches": lambda: photograph_patches(2000, 7),
        "filters": trained_filters,
        "blobs": lambda: blobs(2000, 40, 6),
    }[kind]()
    with threadpool_limits(limits=1):
        reference = KMeans(clusters, n_init=3, random_state=0).fit(points.numpy())
    assert kmeans(points, clusters, seed=0).inertia <= 1.02 * reference.inertia_


def test_blocks_of_memory_give_the_same_clusters() -> None:
    points = blobs(500).double()
    whole, blocks = Lloyd(points), Lloyd(points, memory=4 * 8 * 10 * 64)
    start = whole.start(5, 2, seeded())
    torch.testing.assert_close(blocks.start(5, 2, seeded()), start)
    torch.testing.assert_close(blocks.run(start, 20), whole.run(start, 20))
    better = [lloyd.improve(start, seeded(), 3, 2) for lloyd in (whole, blocks)]
    torch.testing.assert_close(*better)
    assert (whole.inertia(better[0]) <= whole.inertia(start)).all()


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
    algorithm=st.sampled_from(["lloyd", "sklearn", "minibatch"]),
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
    if clusters >= distinct and algorithm != "minibatch":
        torch.testing.assert_close(found.centroids[found.labels], points, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("algorithm", ["lloyd", "sklearn", "minibatch"])
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


def directions(count: int = 400, clusters: int = 5, dims: int = 6, noise: float = 0.15, seed: int = 0) -> Tensor:
    """Points of length 1 around a few directions."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.linalg.qr(torch.randn(dims, clusters, generator=draw, dtype=torch.float64))[0].T
    labels = torch.randint(clusters, (count,), generator=draw)
    points = centres[labels] + noise * torch.randn(count, dims, generator=draw, dtype=torch.float64)
    return points / points.norm(dim=1, keepdim=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_spherical_finds_the_directions_that_scikit_learn_finds_where_clusters_are_apart() -> None:
    points = directions()
    found = spherical_kmeans(points, 5, generator=seeded())
    reference = KMeans(5, random_state=0, n_init=5).fit(points.numpy())
    centres = reference.cluster_centers_ / np.linalg.norm(reference.cluster_centers_, axis=1, keepdims=True)
    cosine = found.centroids.numpy() @ centres.T
    np.testing.assert_allclose(cosine.max(1), 1, atol=1e-9)
    assert len(set(cosine.argmax(1))) == 5
    assert sorted(found.sizes.tolist()) == sorted(np.bincount(reference.labels_))


@pytest.mark.parametrize("seed", range(4))
def test_spherical_is_the_plain_loop_from_the_same_start(seed: int) -> None:
    points = directions(120, 4, 4, noise=0.8, seed=seed)
    start = Directions(points).start(7, seeded(seed)).numpy()
    centres, before = start.copy(), None
    for _ in range(100):
        labels = [int(np.argmax([point @ c for c in centres])) for point in points.numpy()]
        if labels == before:
            break
        before = labels
        for c in range(7):
            mean = np.mean([p for p, label in zip(points.numpy(), labels, strict=True) if label == c], 0)
            centres[c] = mean / np.linalg.norm(mean)
    found = spherical_kmeans(points, 7, generator=seeded(seed), max_iter=100)
    np.testing.assert_allclose(found.centroids.numpy(), centres, atol=1e-12)
    assert found.labels.tolist() == before
    assert found.sizes.tolist() == np.bincount(before).tolist()
    inertia = sum(float(np.sum((p - centres[label]) ** 2)) for p, label in zip(points.numpy(), before, strict=True))
    assert found.inertia == pytest.approx(inertia)


def test_spherical_starts_at_points_far_apart() -> None:
    points = directions(600, 6, 6, noise=0.02)
    hits = [len({int(i) for i in (start @ points.T).argmax(1)}) for start in _starts(points, 6)]
    assert hits == [6] * 20, "never a point twice"
    labels = spherical_kmeans(points, 6, generator=seeded()).labels
    apart = [len({int(labels[i]) for i in (start @ points.T).argmax(1)}) for start in _starts(points, 6)]
    assert np.mean(apart) > 5.5, "nearly always one in each cluster, where draws without regard give 4"


def _starts(points: Tensor, clusters: int) -> list[Tensor]:
    return [Directions(points).start(clusters, seeded(s)) for s in range(20)]


@given(distinct=st.integers(1, 6), copies=st.integers(1, 4), clusters=st.integers(1, 12), dims=st.integers(1, 4))
def test_spherical_with_few_distinct_directions_returns_each_once(
    distinct: int, copies: int, clusters: int, dims: int
) -> None:
    points = directions(distinct, min(distinct, dims), dims, noise=0.5, seed=distinct).float()
    points = points / points.norm(dim=1, keepdim=True)
    truly = len(torch.unique((points * 1e3).round(), dim=0))
    found = spherical_kmeans(points.repeat(copies, 1), clusters, generator=seeded())
    assert len(found.centroids) == min(truly, clusters)
    assert found.sizes.sum() == distinct * copies
    torch.testing.assert_close(found.centroids.norm(dim=1), torch.ones(len(found.centroids)))
    if clusters >= truly:
        assert found.inertia == pytest.approx(0, abs=1e-5)


def test_spherical_of_no_points_is_refused() -> None:
    with pytest.raises(hs.DataError, match="Cannot make 3 clusters"):
        spherical_kmeans(torch.zeros(0, 4), 3, generator=seeded())


def test_spherical_of_opposite_points_keeps_length_one() -> None:
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(8, 1)
    found = spherical_kmeans(points, 1, generator=seeded())
    torch.testing.assert_close(found.centroids.norm(dim=1), torch.ones(1))


def test_spherical_draws_from_its_generator_alone() -> None:
    points = directions(300, 5, 8, noise=0.6)
    a, b, c = (spherical_kmeans(points, 9, generator=seeded(s)).centroids for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("memory", [2**28, 4 * 8 * 9 * 50])
def test_spherical_sums_by_products_and_row_by_row_are_the_same(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points = directions(300, 5, 8, noise=0.6)
    found = []
    for products in (False, True):
        monkeypatch.setattr(spherical, "sums_by_products", lambda device, products=products: products)
        chosen = Directions(points, memory=memory)
        found.append(chosen.run(chosen.start(9, seeded()), 10)[0])
    torch.testing.assert_close(*found, atol=1e-12, rtol=0)
    torch.testing.assert_close(found[0], spherical_kmeans(points, 9, generator=seeded(), max_iter=10).centroids)


def test_points_without_a_direction_take_no_part() -> None:
    points = directions(40, 3, 4, noise=0.3)
    padded = Directions(torch.cat([points, torch.zeros(400, 4, dtype=points.dtype)]))
    centroids, taken = padded.run(padded.start(3, seeded()), 20)
    assert bool(taken.all())
    labels = Directions(points).labels(centroids)
    means = torch.stack([points[labels == c].mean(0) for c in range(3)])
    torch.testing.assert_close(centroids, means / means.norm(dim=1, keepdim=True))


def test_more_clusters_than_directions_leave_some_without_points() -> None:
    points = torch.zeros(50, 3)
    points[:2] = torch.eye(3)[:2]
    few = Directions(points)
    centroids, taken = few.run(few.start(5, seeded()), 10)
    assert bool(centroids.isfinite().all())
    assert sorted(centroids[taken].tolist()) == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    none = Directions(torch.zeros(50, 3))
    assert not none.run(none.start(5, seeded()), 10)[1].any()
