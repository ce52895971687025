"""Filters from patches: what scikit-learn finds in patches unfolded pixel by pixel, and what they do to outputs."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor, nn

import headstart as hs
from headstart import rng
from headstart.engine import registry
from headstart.methods.data_dependent import fills
from headstart.results.report import Report

DATA_FILLS = ("pca", "zca", "kmeans", "patches")


def unfolded(images: Tensor, stride: int = 1, padding: int = 0) -> np.ndarray:
    """All 3×3 patches of zero-padded images, place by place, in float64."""
    padded = np.pad(images.double().numpy(), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    last = [size - 2 for size in padded.shape[2:]]
    return np.stack(
        [
            image[:, i : i + 3, j : j + 3].reshape(-1)
            for image in padded
            for i in range(0, last[0], stride)
            for j in range(0, last[1], stride)
        ]
    )


def unit_rows(weight: Tensor | np.ndarray) -> np.ndarray:
    flat = np.asarray(weight.detach() if isinstance(weight, Tensor) else weight, dtype=np.float64)
    flat = flat.reshape(len(flat), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def conv(channels: int, filters: int, **options: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, filters, 3, **options)


def filled(layer: nn.Module, x: Tensor, fill: str, **options: object) -> Report:
    many = {"patches": 100_000, **options}
    return hs.initialize(layer, x, hs.WithinLayer(fill=fill, **many), seed=5)  # type: ignore[arg-type]


def gaussian_rows(layer: nn.Module) -> np.ndarray:
    """Directions of the filters that the layer's own stream draws."""
    draw = torch.randn(tuple(layer.weight.shape), generator=rng.generator(5, "", "weight"))  # type: ignore[arg-type, union-attr]
    return unit_rows(draw)


@pytest.fixture(scope="module")
def photos(tiles: Tensor) -> Tensor:
    """64 colour tiles, standardized."""
    part = tiles[:64]
    return (part - part.mean((0, 2, 3), keepdim=True)) / part.std((0, 2, 3), keepdim=True)


@pytest.fixture
def every_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    monkeypatch.setattr(fills, "ENOUGH", 10_000)


@pytest.mark.usefixtures("every_patch")
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1)])
def test_pca_is_scikit_learns(stride: int, padding: int, photos: Tensor) -> None:
    layer = conv(3, 12, stride=stride, padding=padding)
    report = filled(layer, photos, "pca")
    reference = PCA(12, svd_solver="full").fit(unfolded(photos, stride, padding))
    cosine = (unit_rows(layer.weight) * reference.components_).sum(1)
    np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-5)
    places = 64 * (14**2 if stride == 1 else 8**2)
    assert f"pca of {places} patches" in report.row("").notes


def test_pca_of_a_subset_of_patches_is_nearly_that_of_all(photos: Tensor) -> None:
    reference = PCA(6).fit(unfolded(photos))
    for patches, used in ((3000, 3000), (100_000, 256 * 27)):
        layer = conv(3, 6)
        report = filled(layer, photos, "pca", patches=patches)
        assert f"pca of {used} patches" in report.row("").notes
        overlap = np.linalg.svd(unit_rows(layer.weight) @ reference.components_.T, compute_uv=False)
        assert overlap.min() > 0.95
        assert not np.allclose(np.abs((unit_rows(layer.weight) * reference.components_).sum(1)), 1, atol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.1])
def test_zca_of_a_square_layer_is_the_inverse_root_of_the_covariance(eps: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 8) @ torch.randn(8, 8) + 3
    layer = nn.Linear(8, 8)
    filled(layer, x, "zca", eps=eps)
    covariance = np.cov(x.double().numpy().T, bias=True)
    ridge = eps * np.trace(covariance) / 8 * np.eye(8)
    root = scipy.linalg.fractional_matrix_power(covariance + ridge, -0.5).real
    np.testing.assert_allclose(unit_rows(layer.weight), unit_rows(root), atol=1e-4)
    if eps == 0:
        out = np.cov(layer(x).detach().double().numpy().T, bias=True)
        np.testing.assert_allclose(out, np.eye(8), atol=1e-3)


@pytest.mark.usefixtures("every_patch")
def test_zca_with_fewer_filters_keeps_them_apart(photos: Tensor) -> None:
    layer = conv(3, 9)
    filled(layer, photos, "zca")
    rows = unit_rows(layer.weight)
    patches = unfolded(photos)
    pca = PCA(9).fit(patches)
    leading = pca.components_
    np.testing.assert_allclose(
        np.linalg.norm(rows @ leading.T, axis=1), 1, atol=1e-4
    )  # nothing beside those directions
    whitening = (leading.T / np.sqrt(pca.explained_variance_ + 1e-3 * patches.var(0).mean())) @ leading
    draw = np.random.default_rng(0)
    by_chance = [np.linalg.cond(unit_rows(whitening[draw.choice(27, 9, replace=False)])) for _ in range(100)]
    assert np.linalg.cond(rows) < np.quantile(by_chance, 0.05)


def clustered() -> tuple[Tensor, Tensor]:
    """Rows around 5 centres that span 5 of 12 dimensions, the rest small noise; and the centres' numbers."""
    draw = torch.Generator().manual_seed(3)
    centres = 4 * torch.linalg.qr(torch.randn(12, 12, generator=draw))[0][:6]
    labels = torch.arange(600) % 6
    return centres[labels] + 0.2 * torch.randn(600, 12, generator=draw), labels


def test_kmeans_finds_the_clusters_that_scikit_learn_finds() -> None:
    x, labels = clustered()
    layer = nn.Linear(12, 6)
    filled(layer, x, "kmeans")
    pca = PCA(6).fit(x.double().numpy())
    eigenvalues = pca.explained_variance_ * 599 / 600
    ridge = 1e-3 * np.var(x.double().numpy(), axis=0).mean()
    whiten = pca.components_ / np.sqrt(eigenvalues + ridge)[:, None]
    points = (x.double().numpy() - pca.mean_) @ whiten.T
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    reference = KMeans(6, n_init=20, random_state=0).fit(points)
    expected = unit_rows(reference.cluster_centers_ @ whiten)
    cosine = unit_rows(layer.weight) @ expected.T
    best = cosine.argmax(1)
    # Ordinary centroids decide by distance, spherical ones by angle: nearly the same on points of length 1.
    assert np.sort(cosine.max(1))[1:].min() > 0.99
    assert len(set(best)) >= 5
    assert len(set(labels.tolist())) == 6


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_kmeans_of_a_patch_embedding_is_that_of_its_patches_as_rows(dims: int) -> None:
    """Stride and kernel are one: each input is cut into patches, which a linear layer takes as rows."""
    classes = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    rows, _ = clustered()
    kernel = {1: (12,), 2: (3, 4), 3: (2, 3, 2)}[dims]
    patches = rows.reshape(300, 2, *kernel)  # two along the last axis
    inputs = torch.cat([patches[:, 0], patches[:, 1]], -1).unsqueeze(1)
    embedding, linear = classes[dims](1, 6, kernel, kernel), nn.Linear(12, 6)
    filled(embedding, inputs, "kmeans")
    filled(linear, rows, "kmeans")
    cosine = unit_rows(embedding.weight) @ unit_rows(linear.weight).T
    assert np.sort(cosine.max(1))[1:].min() > 0.99  # another order of points may move one of six
    assert len(set(cosine.argmax(1))) >= 5


def test_kmeans_on_photographs_is_as_good_as_scikit_learns(photos: Tensor) -> None:
    layer = conv(3, 16)
    filled(layer, photos, "kmeans")
    patches = unfolded(photos)
    pca = PCA(16).fit(patches)
    factors = 1 / np.sqrt(pca.explained_variance_ + 1e-3 * patches.var(0).mean())
    points = unit_rows((patches - pca.mean_) @ (pca.components_ * factors[:, None]).T)
    ours = unit_rows(unit_rows(layer.weight) @ (pca.components_ / factors[:, None]).T)  # back in the whitened space
    theirs = unit_rows(KMeans(16, n_init=3, random_state=0).fit(points).cluster_centers_)
    scores = [float((points @ centres.T).max(1).mean()) for centres in (ours, theirs)]
    assert scores[0] > 0.99 * scores[1]
    random = unit_rows(np.random.default_rng(0).normal(size=(16, 16)))
    assert scores[0] > 1.1 * float((points @ random.T).max(1).mean())


@pytest.mark.usefixtures("every_patch")
def test_every_filter_of_patches_is_a_whitened_patch_and_none_comes_twice(digits: Tensor) -> None:
    """Digits have many patches that are all background."""
    layer = conv(1, 24)
    report = filled(layer, digits, "patches", eps=0.01)
    patches = unfolded(digits)
    pca = PCA(9).fit(patches)
    factors = 1 / np.sqrt(pca.explained_variance_ + 0.01 * patches.var(0).mean())
    white = (patches - pca.mean_) @ (pca.components_ * factors[:, None]).T
    every = unit_rows((white * factors) @ pca.components_)
    rows = unit_rows(layer.weight)
    assert (rows @ every.T).max(1).min() > 1 - 1e-4
    assert (rows @ rows.T - 2 * np.eye(24)).max() < 1 - 1e-6
    assert report.findings == [], "more filters than inputs, and all of them from the data"


@pytest.mark.parametrize("fill", DATA_FILLS)
def test_groups_are_filled_from_their_own_channels(fill: str, photos: Tensor) -> None:
    both = torch.cat([photos, photos.flip(0).cumsum(3) / 4], 1)
    layer = conv(6, 16, groups=2)
    filled(layer, both, fill)
    if fill in ("pca", "zca"):
        for g in (0, 1):
            alone = conv(3, 8)
            filled(alone, both[:, 3 * g : 3 * g + 3], fill)
            np.testing.assert_allclose(unit_rows(layer.weight[8 * g : 8 * g + 8]), unit_rows(alone.weight), atol=1e-4)
    swapped = torch.cat([both[:, :3], torch.zeros_like(photos)], 1)
    other = conv(6, 16, groups=2)
    filled(other, swapped, fill)
    torch.testing.assert_close(other.weight[:8], layer.weight[:8], atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(unit_rows(other.weight[8:]), gaussian_rows(other)[8:], atol=1e-5)


@pytest.mark.usefixtures("every_patch")
def test_filters_of_a_layer_without_bias_are_components_of_what_is_left_without_the_mean(tiles: Tensor) -> None:
    """The first component of positive images is nearly their mean patch: without that, little would remain of it."""
    images = tiles[:64]
    layer = conv(3, 12, bias=False)
    report = filled(layer, images, "pca")
    patches = unfolded(images)
    mean = patches.mean(0) / np.linalg.norm(patches.mean(0))
    assert abs(PCA(1).fit(patches).components_[0] @ mean) > 0.99
    rows = unit_rows(layer.weight)
    np.testing.assert_allclose(rows @ mean, 0, atol=1e-5)
    np.testing.assert_allclose(rows @ rows.T, np.eye(12), atol=1e-3)
    rest = PCA(12, svd_solver="full").fit(patches - np.outer(patches @ mean, mean))
    np.testing.assert_allclose(np.abs((rows * rest.components_).sum(1)), 1, atol=1e-4)
    assert report.findings == []
    kept = conv(3, 12, bias=False)
    filled(kept, images, "pca", center=False)
    assert abs(unit_rows(kept.weight)[0] @ mean) > 0.99


@pytest.mark.parametrize("fill", DATA_FILLS)
def test_more_filters_than_directions_are_gaussian_for_the_rest_and_told(fill: str, photos: Tensor) -> None:
    gray = photos[:, :1].repeat(1, 3, 1, 1)  # 9 of 27 directions
    layer = conv(3, 20)
    report = filled(layer, gray, fill)
    written = 20 if fill == "patches" else 9
    rows, random = unit_rows(layer.weight), gaussian_rows(layer)
    same = np.isclose((rows * random).sum(1), 1, atol=1e-5)
    assert same.tolist() == [i >= written for i in range(20)]
    np.testing.assert_allclose(rows[:written, :9], rows[:written, 9:18], atol=1e-4)
    if written < 20:
        assert "11 of 20 filters Gaussian" in report.row("").notes
        assert any("11 of 20 filters of '' are Gaussian" in finding for finding in report.findings)
    out = layer(gray).detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(out.std(1, correction=0), torch.ones(20), atol=1e-3, rtol=0)


@pytest.mark.parametrize("fill", DATA_FILLS)
def test_fewer_samples_than_filters(fill: str) -> None:
    x = torch.randn(10, 40, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(40, 30)
    report = filled(layer, x, fill)
    from_data = 10 if fill == "patches" else 9
    rows = unit_rows(layer.weight)
    assert np.isclose((rows * gaussian_rows(layer)).sum(1), 1, atol=1e-5).tolist() == [
        i >= from_data for i in range(30)
    ]
    assert any("10 patches support fewer" in finding for finding in report.findings)
    span = np.linalg.svd(x.numpy() - x.numpy().mean(0), full_matrices=False)[2][:9]
    np.testing.assert_allclose(np.linalg.norm(rows[:from_data] @ span.T, axis=1), 1, atol=1e-5)
    torch.testing.assert_close(layer(x).std(0, correction=0), torch.ones(30), atol=1e-3, rtol=0)


@pytest.mark.parametrize("fill", ["kmeans", "patches"])
def test_depthwise_layers_have_nothing_to_choose_from(fill: str, photos: Tensor) -> None:
    layer, plain = conv(3, 3, groups=3), conv(3, 3, groups=3)
    report = filled(layer, photos, fill)
    filled(plain, photos, "gaussian")
    assert torch.equal(layer.weight, plain.weight)
    assert any("3 of 3 filters" in f and "one filter per group" in f for f in report.findings)


def test_depthwise_layers_have_a_first_component(photos: Tensor) -> None:
    layer = conv(3, 3, groups=3)
    filled(layer, photos, "pca")
    for g in range(3):
        first = PCA(1).fit(unfolded(photos[:, g : g + 1])).components_
        np.testing.assert_allclose(np.abs(unit_rows(layer.weight[g : g + 1]) @ first.T), 1, atol=1e-4)


@pytest.mark.parametrize("fill", DATA_FILLS)
def test_an_input_that_lost_all_variation_leaves_gaussian_filters(fill: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Threshold(1e3, 0.3), nn.Linear(6, 4))
    report = filled(model, torch.randn(32, 5), fill)
    assert any("4 of 4 filters of '2' are Gaussian" in f for f in report.findings)
    assert any("'2' is constant over the batch" in f for f in report.findings)
    assert all(p.isfinite().all() for p in model.parameters())


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A layer of any kind and geometry, and an input of low rank or full rank."""
    dims, groups = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    rank = draw(st.integers(1, 3))
    if dims == 0:
        layer: nn.Module = nn.Linear(draw(st.integers(1, 9)), draw(st.integers(1, 12)))
        shape: tuple[int, ...] = (24, layer.in_features)  # type: ignore[assignment]
    else:
        kinds = [(nn.Conv1d, nn.Conv2d, nn.Conv3d), (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)]
        cls = draw(st.sampled_from(kinds))[dims - 1]
        inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 6))
        options = {"stride": draw(st.integers(1, 2)), "groups": groups, "bias": draw(st.booleans())}
        layer = cls(inputs, outputs, draw(st.integers(1, 3)), **options)
        shape = (8, inputs, *[6] * dims)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    if draw(st.booleans()):
        return layer, torch.randn(shape, generator=generator)
    parts = torch.randn(rank, *shape[1:], generator=generator)
    return layer, torch.tensordot(torch.randn(shape[0], rank, generator=generator), parts, dims=1)


@settings(max_examples=60, deadline=None)
@given(case=layers(), fill=st.sampled_from(DATA_FILLS), limit=st.sampled_from([1, 512]))
def test_whatever_the_layer_its_channels_get_deviation_one(
    case: tuple[nn.Module, Tensor], fill: str, limit: int
) -> None:
    layer, x = case
    report = filled(layer, x, fill, memory_limit=limit)
    with torch.no_grad():
        out = layer(x).movedim(1, -1).flatten(0, -2).double()
    deviation = out.std(0, correction=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=2e-3, rtol=0)
    notes = " ".join(report.row("").notes)
    assert "constant channels" not in notes
    if "Gaussian" in notes:
        assert any("are Gaussian" in finding for finding in report.findings)


class Overflow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x == x.max(), torch.nan, x)


@pytest.mark.parametrize("fill", DATA_FILLS)
def test_nan_inside_the_model_is_refused_by_the_layer_it_reaches(fill: str) -> None:
    model = nn.Sequential(nn.Linear(5, 6), Overflow(), nn.Linear(6, 4))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(hs.DataError, match=r"input of layer '2' .* NaN"):
        filled(model, torch.randn(32, 5), fill)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("fill", DATA_FILLS)
def test_the_unit_of_the_input_does_not_matter(fill: str, photos: Tensor) -> None:
    small, large = conv(3, 8), conv(3, 8)
    filled(small, photos, fill)
    filled(large, photos * 256, fill)  # a power of two: the same digits
    wide, narrow = large.weight.detach() * 256, small.weight.detach()
    torch.testing.assert_close(wide, narrow, rtol=1e-4, atol=1e-4 * float(narrow.abs().max()))


@pytest.mark.parametrize("fill", DATA_FILLS)
def test_one_seed_one_result_and_a_stream_for_every_layer(fill: str, photos: Tensor) -> None:
    model = nn.Sequential(conv(3, 6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    twin, other = copy.deepcopy(model), copy.deepcopy(model)
    filled(model, photos, fill, patches=500)
    filled(twin, photos, fill, patches=500)
    hs.initialize(other, photos, hs.WithinLayer(fill=fill, patches=500), seed=6)
    for a, b, c in zip(model.parameters(), twin.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@pytest.mark.usefixtures("every_patch")
def test_layers_before_a_normalization_are_filled_on_request(photos: Tensor) -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    before = model[0].weight.detach().clone()  # type: ignore[operator, union-attr]
    assert filled(model, photos, "kmeans").changed == ["3"]
    assert torch.equal(model[0].weight, before)  # type: ignore[arg-type]
    assert filled(model, photos, "pca", before_norm="normalize").changed == ["0", "3"]
    first = PCA(8).fit(unfolded(photos)).components_
    np.testing.assert_allclose(np.abs((unit_rows(model[0].weight) * first).sum(1)), 1, atol=1e-4)  # type: ignore[arg-type]


def test_the_preset_is_the_authors_command_line_with_kmeans() -> None:
    published = {"beta": 0.1, "before_norm": "normalize", "center": False, "patches": 100_000}
    assert hs.WithinLayer.kmeans() == hs.WithinLayer(fill="kmeans", **published)  # type: ignore[arg-type]
    assert hs.DataDependent.kmeans() == hs.DataDependent(fill="kmeans", **published)  # type: ignore[arg-type]
    assert hs.WithinLayer().patches == 4000
    assert hs.WithinLayer.kmeans(beta=0.0, memory_limit=64).memory_limit == 64
    assert registry.parse("within-layer:kmeans,eps=0.1") == [hs.WithinLayer.kmeans(eps=0.1)]


@pytest.mark.parametrize("limit", [1, 8, 64, 512])
@pytest.mark.parametrize(("inputs", "samples", "filters"), [(27, 5000, 64), (1500, 4000, 32), (6000, 900, 48)])
def test_what_is_decomposed_fits_the_limit(
    inputs: int, samples: int, filters: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    class Watched:
        """In place of a decomposition, which would take long."""

        def __init__(self, rows: Tensor) -> None:
            seen.append((rows.shape[0], rows.shape[1]))
            self.values = torch.ones(min(rows.shape), dtype=torch.float64)

        def count(self, values: object, most: int, floor: float) -> int:
            return most

        def vectors(self, count: int) -> Tensor:
            return torch.eye(count, seen[0][1], dtype=torch.float64)

    monkeypatch.setattr(fills, "Spectrum", Watched)
    monkeypatch.setattr(fills, "few_of_many", lambda rows, most: False)  # a search holds less
    x = torch.rand(1, 1, inputs) * torch.rand(samples // 100, 100, 1)
    filled(nn.Linear(inputs, filters), x, "pca", memory_limit=limit)
    ((n, dimensions),) = seen
    assert dimensions == inputs
    assert 4 * n * dimensions <= limit * 2**20 / 4, "patches"
    side = min(n, dimensions)
    assert 4 * 8 * side**2 <= limit * 2**20 * 3 / 4, "the covariance, its eigenvectors and working space"
    if limit == 512:
        assert n == min(samples, 256 * max(inputs, filters))


MEMORY = """
import torch, headstart as hs
from pathlib import Path

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

layer = torch.nn.Linear(25088, 64)
x = torch.randn(300, 5, 25088)
hs.initialize(layer, x, "within-layer")
before = peak()
hs.initialize(layer, x, "within-layer:fill={fill},memory_limit=64")
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from /proc")
@pytest.mark.parametrize("fill", DATA_FILLS)
def test_a_wide_layer_stays_within_the_limit(fill: str) -> None:
    """A covariance of 25,088 inputs would take 5 GB."""
    out = subprocess.run([sys.executable, "-c", MEMORY.format(fill=fill)], capture_output=True, text=True, check=True)
    assert float(out.stdout.splitlines()[-1]) < 64 + 40


def test_a_few_of_very_many_directions_are_those_of_the_whole_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1100, 1100, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 1101) ** -0.5
    searched, whole = nn.Linear(1100, 12), nn.Linear(1100, 12)
    filled(searched, x, "pca")
    monkeypatch.setattr(fills, "few_of_many", lambda rows, most: False)
    filled(whole, x, "pca")
    cosines = (unit_rows(searched.weight) * unit_rows(whole.weight)).sum(1)
    assert np.abs(cosines).min() > 0.98
