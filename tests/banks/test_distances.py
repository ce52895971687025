"""Each distance against an oracle that computes the same thing another way."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from headstart.banks.distances import DISTANCES, cluster, even_part, magnitudes
from headstart.errors import DataError

KERNELS = [(3,), (4,), (3, 3), (2, 5), (7, 7), (2, 3, 4)]


def blobs(kernel, k=4, each=25, seed=0, noise=0.05):
    """Filters around ``k`` prototypes."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(k, *kernel, generator=generator)
    spread = noise * torch.randn(k * each, *kernel, generator=generator)
    return prototypes.repeat_interleave(each, 0) + spread


def match(found, expected):
    """The rows of ``found`` in the order of the nearest rows of ``expected``."""
    distances = torch.cdist(expected.flatten(1).double(), found.flatten(1).double())
    order = distances.argmin(1)
    assert sorted(order.tolist()) == list(range(len(expected)))
    return found[order]


def explicit_even(kernel):
    """By its definition, one entry at a time."""
    even = torch.empty_like(kernel)
    for place in itertools.product(*map(range, kernel.shape)):
        mirrored = tuple(-x % size for x, size in zip(place, kernel.shape, strict=True))
        even[place] = (kernel[place] + kernel[mirrored]) / 2
    return even


@pytest.mark.parametrize("kernel", KERNELS)
def test_even_part_by_definition_and_as_real_part_of_the_transform(kernel):
    filters = blobs(kernel).double()
    even = even_part(filters, len(kernel))
    assert torch.equal(even[3], explicit_even(filters[3]))
    axes = tuple(range(1, len(kernel) + 1))
    back = torch.fft.ifftn(torch.fft.fftn(filters, dim=axes).real.to(torch.complex128), dim=axes)
    assert back.imag.abs().max() < 1e-12
    assert torch.allclose(back.real, even, atol=1e-12)


@given(st.integers(0, 2**31), st.sampled_from(KERNELS))
def test_even_part_is_a_projection(seed, kernel):
    filters = torch.randn(2, *kernel, generator=torch.Generator().manual_seed(seed))
    even = even_part(filters, len(kernel))
    assert torch.equal(even_part(even, len(kernel)), even)
    odd = filters - even
    assert abs(float((even * odd).sum())) < 1e-4  # orthogonal


def test_three_by_three_pairs_of_the_specification():
    even = even_part(torch.arange(9.0).reshape(3, 3), 2)
    for one, other in (((0, 1), (0, 2)), ((1, 0), (2, 0)), ((1, 1), (2, 2)), ((1, 2), (2, 1))):
        assert even[one] == even[other]
    assert even[0, 0] == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_euclidean_is_the_k_means_of_scikit_learn(kernel):
    filters = blobs(kernel)
    found = cluster(filters, 4, "euclidean", len(kernel), 0, "a")
    oracle = KMeans(4, n_init=10, random_state=1).fit(filters.flatten(1).numpy())
    expected = torch.tensor(oracle.cluster_centers_).reshape(-1, *kernel)
    assert torch.allclose(match(found.centroids, expected), expected, atol=1e-5)
    assert found.inertia == pytest.approx(oracle.inertia_, rel=1e-4)
    assert found.sizes.tolist() == [25] * 4


@pytest.mark.parametrize("kernel", KERNELS)
def test_even_is_the_k_means_of_the_real_part_of_the_transform(kernel):
    """The published code: transform, keep the real part, cluster, transform back."""
    filters = blobs(kernel)
    axes = tuple(range(1, len(kernel) + 1))
    real = np.fft.fftn(filters.numpy().astype(np.float64), axes=axes).real
    oracle = KMeans(4, n_init=10, random_state=1).fit(real.reshape(len(real), -1))
    back = np.fft.ifftn(oracle.cluster_centers_.reshape(-1, *kernel), axes=axes).real
    found = cluster(filters, 4, "even", len(kernel), 0, "a")
    expected = torch.tensor(back, dtype=torch.float32)
    assert torch.allclose(match(found.centroids, expected), expected, atol=1e-5)
    assert torch.equal(even_part(found.centroids, len(kernel)), found.centroids)
    assert found.inertia * filters[0].numel() == pytest.approx(oracle.inertia_, rel=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_cosine_clusters_directions_and_restores_norms(kernel):
    filters = blobs(kernel)
    sizes = torch.rand(len(filters), generator=torch.Generator().manual_seed(3)) * 10 + 0.1
    filters = filters * sizes.reshape(-1, *[1] * len(kernel))
    found = cluster(filters, 4, "cosine", len(kernel), 0, "a")
    flat = filters.flatten(1)
    norms = flat.norm(dim=1)
    for group in torch.arange(100).split(25):
        mean = (flat[group] / norms[group, None]).mean(0)
        expected = mean / mean.norm() * norms[group].mean()
        nearest = (found.centroids.flatten(1) - expected).norm(dim=1).min()
        assert nearest < 1e-4 * expected.norm()
    units = flat / norms[:, None]
    own = found.centroids.flatten(1)[found.labels]
    own = own / own.norm(dim=1, keepdim=True)
    assert found.inertia == pytest.approx(float((units - own).square().sum()), rel=1e-4)


def test_cosine_does_not_mind_the_scale_of_a_filter():
    filters = blobs((3, 3), each=10)
    scales = torch.tensor([1.0, 100.0]).repeat(20).reshape(-1, 1, 1)
    labels = [cluster(f, 4, "cosine", 2, 0, "a").labels for f in (filters, filters * scales)]
    together = [(one[:, None] == one[None]) for one in labels]
    assert torch.equal(*together)


def test_cosine_leaves_out_filters_without_a_direction():
    filters = blobs((3, 3))
    filters[[3, 50, 99]] = 0
    filters[7] = 1e-30
    found = cluster(filters, 4, "cosine", 2, 0, "a")
    assert (found.left_out, int(found.sizes.sum())) == (4, 96)
    with pytest.raises(DataError, match=r"All filters of layer 'x' are zero"):
        cluster(torch.zeros(5, 3, 3), 2, "cosine", 2, 0, "layer 'x'")


@pytest.mark.parametrize("kernel", KERNELS)
def test_magnitude_centroids_are_medoids_by_brute_force(kernel):
    filters = blobs(kernel, noise=0.2)
    found = cluster(filters, 4, "magnitude", len(kernel), 0, "a")
    axes = tuple(range(1, len(kernel) + 1))
    points = np.abs(np.fft.fftn(filters.numpy(), axes=axes)).reshape(100, -1) / np.sqrt(filters[0].numel())
    total = 0.0
    for c, centroid in enumerate(found.centroids):
        own = np.flatnonzero(found.labels.numpy() == c)
        sums = ((points[own, None] - points[None, own]) ** 2).sum((1, 2))
        assert torch.equal(filters[own[sums.argmin()]], centroid)
        total += sums.min()
    assert found.inertia == pytest.approx(total, rel=1e-4)


def test_magnitude_does_not_see_circular_shifts():
    """Shifted copies are one cluster by magnitude and several by euclidean distance."""
    one, other = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    filters = torch.stack([f.roll((i, j), (0, 1)) for f in (one, other) for i in range(5) for j in range(5)])
    found = cluster(filters, 2, "magnitude", 2, 0, "a")
    assert found.inertia < 1e-8
    assert found.sizes.tolist() == [25, 25]
    assert len(set(found.labels[:25].tolist())) == 1
    assert cluster(filters, 2, "euclidean", 2, 0, "a").inertia > 1


def test_magnitudes_keep_the_norm():
    filters = blobs((4, 5))
    assert torch.allclose(magnitudes(filters, 2).flatten(1).norm(dim=1), filters.flatten(1).norm(dim=1), rtol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("channels", [(), (6,)])
def test_what_every_distance_promises(distance, channels):
    filters = blobs((*channels, 3, 3), k=3, each=40, noise=0.3)
    found = cluster(filters, 3, distance, 2, 0, "a")
    again = cluster(filters, 3, distance, 2, 0, "a")
    assert torch.equal(found.centroids, again.centroids)
    assert found.centroids.shape == found.deviations.shape == (3, *channels, 3, 3)
    assert found.sizes.tolist() == sorted(found.sizes.tolist(), reverse=True)
    assert torch.equal(torch.bincount(found.labels), found.sizes)
    compared = even_part(filters, 2) if distance == "even" else filters
    for c in range(3):
        expected = compared[found.labels == c].double().std(0, correction=0)
        assert torch.allclose(found.deviations[c].double(), expected, atol=1e-5)


def test_transform_of_whole_filters_leaves_channels_alone():
    filters = blobs((6, 3, 3), k=2)
    assert torch.equal(even_part(filters, 2)[:, 4], even_part(filters[:, 4], 2))
    assert torch.allclose(magnitudes(filters, 2)[:, 4], magnitudes(filters[:, 4], 2))


@pytest.mark.parametrize("distance", DISTANCES)
def test_fewer_distinct_filters_than_clusters(distance):
    filters = torch.eye(9).reshape(9, 3, 3)[[0, 4]].repeat(10, 1, 1)
    # The transforms of two impulses have equal magnitudes; their even parts differ, as do they.
    distinct = 1 if distance == "magnitude" else 2
    found = cluster(filters, 5, distance, 2, 0, "a")
    assert found.sizes.tolist() == [20 // distinct] * distinct
    assert found.inertia < 1e-8
