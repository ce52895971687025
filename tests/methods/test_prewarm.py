"""Pre-Warm against a plain re-implementation with loops and scikit-learn, and its invariants."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

import headstart as hs
from headstart import rng
from headstart.measure.patches import foreground_density
from headstart.methods.prewarm import LLOYD
from headstart.numerics.clustering import kmeans

CONVS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def draw_patches(images: np.ndarray, kernel: tuple[int, ...], count: int, stream: torch.Generator) -> np.ndarray:
    """Corners from the stream, then one slice at a time: (batch * count, channels * kernel)."""
    space = images.shape[2:]
    corners = [
        torch.randint(s - k + 1, (len(images), count), generator=stream).numpy()
        for s, k in zip(space, kernel, strict=True)
    ]
    rows = []
    for b, n in itertools.product(range(len(images)), range(count)):
        places = tuple(slice(c[b, n], c[b, n] + k) for c, k in zip(corners, kernel, strict=True))
        rows.append(images[(b, slice(None), *places)].reshape(-1))
    return np.stack(rows)


def taper_by_loop(channels: int, kernel: tuple[int, ...]) -> np.ndarray:
    weights = np.zeros((channels, *kernel))
    for place in np.ndindex(*kernel):
        distance = sum(abs(i - (k - 1) / 2) for i, k in zip(place, kernel, strict=True))
        weights[(slice(None), *place)] = 1 / (1 + distance)
    return weights.reshape(-1)


def clustered(patches: np.ndarray, clusters: int, state: int) -> np.ndarray:
    """K-means as tests/numerics holds it against scikit-learn's."""
    return (
        kmeans(torch.from_numpy(patches.astype(np.float32)), clusters, seed=state, **LLOYD).centroids.double().numpy()
    )


def plain_prewarm(
    images: Tensor, conv: nn.Module, count: int, seed: int, *, published: bool, alpha: float
) -> np.ndarray:
    """The block of filters for an ungrouped convolution called ''."""
    filters, channels, *kernel = conv.weight.shape  # type: ignore[misc]
    patches = draw_patches(images.numpy(), tuple(kernel), count, rng.generator(seed, "", "patches"))
    patches = patches - patches.mean(axis=1, keepdims=True)
    state = rng.derive(seed, "", "clusters/0") & 0x7FFFFFFF
    if published:
        with threadpool_limits(limits=1):
            model = MiniBatchKMeans(n_clusters=filters // 2, random_state=state, n_init=3)
            centroids = model.fit(patches).cluster_centers_
    else:
        centroids = clustered(patches, filters // 2, state)
    centroids = centroids.astype(np.float64) * taper_by_loop(channels, tuple(kernel))
    size = centroids.std() + 1e-8 if published else np.sqrt((centroids**2).mean())
    return (alpha * centroids / size).reshape(-1, channels, *kernel)


def rms(weight: Tensor) -> float:
    return float(weight.detach().double().square().mean().sqrt())


def conv2d(channels: int = 1, filters: int = 8, kernel: int = 3, **options: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, filters, kernel, **options)


def test_the_preset_is_the_published_algorithm_on_gray_images(digits: Tensor) -> None:
    conv = conv2d(1, 16)
    count = math.floor(16 / 4 / foreground_density(digits))
    expected = plain_prewarm(digits, conv, count, 5, published=True, alpha=0.20)
    report = hs.initialize(conv, digits, "prewarm:paper", seed=5)
    np.testing.assert_allclose(conv.weight[:8].detach().numpy(), expected, atol=1e-6)
    assert f"{count} patches per sample, {256 * count} in all" in report.row("").notes
    assert conv.weight[:8].detach().double().std(correction=0).item() == pytest.approx(0.20, abs=1e-6)


def test_the_preset_is_the_published_algorithm_on_colour_images(tiles: Tensor) -> None:
    conv = conv2d(3, 16)
    measured = draw_patches(tiles.numpy(), (3, 3), 20, rng.generator(1, "", "rule"))
    norm = np.linalg.norm(measured - measured.mean(1, keepdims=True), axis=1).mean()
    count = math.floor(16 / 4 * 6.65 * norm)
    assert count > 3, "else the rule is not tested"
    expected = plain_prewarm(tiles, conv, count, 1, published=True, alpha=0.25)
    report = hs.initialize(conv, tiles, hs.PreWarm.paper(), seed=1)
    np.testing.assert_allclose(conv.weight[:8].detach().numpy(), expected, atol=1e-6)
    assert f"{count} patches per sample, {256 * count} in all" in report.row("").notes


@pytest.mark.parametrize(
    ("shape", "filters", "kernel"),
    [
        ((40, 2, 30), 8, (5,)),
        ((40, 1, 30), 7, (4,)),
        ((30, 5, 9, 8), 9, (3, 3)),
        ((30, 2, 9, 8), 6, (4, 4)),
        ((30, 1, 9, 8), 6, (1, 5)),
        ((20, 2, 6, 5, 7), 8, (3, 2, 3)),
    ],
)
def test_the_default_in_every_dimension_odd_and_even(
    shape: tuple[int, ...], filters: int, kernel: tuple[int, ...]
) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    torch.manual_seed(0)
    conv = CONVS[len(kernel)](shape[1], filters, kernel)
    before = conv.weight.detach().clone()
    alpha = min(rms(before), math.sqrt(2 / before[0].numel()))
    expected = plain_prewarm(images, conv, 12, 0, published=False, alpha=alpha)
    hs.initialize(conv, images, hs.PreWarm(patches=12))
    written = conv.weight.detach()
    assert len(expected) == filters // 2
    np.testing.assert_allclose(written[: filters // 2].numpy(), expected, atol=2e-5)
    assert torch.equal(written[filters // 2 :], before[filters // 2 :])


def test_only_the_first_half_of_the_first_convolution_changes(digits: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 4, 3), nn.Flatten())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    report = hs.initialize(model, digits, "prewarm")
    assert torch.equal(torch.get_rng_state(), state), "the authors' pairing relies on an untouched generator"
    after = model.state_dict()
    changed = [k for k in before if not torch.equal(before[k], after[k])]
    assert changed == ["0.weight"]
    assert torch.equal(before["0.weight"][5:], after["0.weight"][5:])
    assert (before["0.weight"][:5] != after["0.weight"][:5]).flatten(1).any(1).all()
    assert report.changed == ["0"]


@pytest.mark.parametrize("channels", [1, 3])
def test_each_filter_divided_by_the_taper_sums_to_zero(channels: int, digits: Tensor, tiles: Tensor) -> None:
    conv = conv2d(channels, 16)
    hs.initialize(conv, digits if channels == 1 else tiles, "prewarm")
    untapered = conv.weight[:8].detach().double().flatten(1).numpy() / taper_by_loop(channels, (3, 3))
    assert np.abs(untapered.sum(1)).max() < 1e-5 * np.abs(untapered).max()
    assert np.abs(conv.weight[:8].detach().sum((1, 2, 3)).numpy()).max() > 1e-3, "tapered, they have a mean"


def test_same_seed_and_batch_same_filters_other_seed_others(digits: Tensor) -> None:
    results = []
    for seed in (3, 3, 4):
        conv = conv2d()
        hs.initialize(conv, digits, "prewarm", seed=seed)
        results.append(conv.weight.detach())
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0][:4], results[2][:4], atol=1e-3)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [("match", "own"), ("bound", math.sqrt(2 / 27)), ("paper", 0.25), (0.1, 0.1), (0.9, math.sqrt(2 / 27))],
)
def test_scales_and_the_parity_bound(scale: float | str, expected: float | str, tiles: Tensor) -> None:
    conv = conv2d(3, 16)
    own = rms(conv.weight)
    report = hs.initialize(conv, tiles, hs.PreWarm(scale=scale))
    block = conv.weight[:8].detach().double()
    size = rms(block) if isinstance(scale, str) and scale != "paper" else block.std(correction=0).item()
    assert size == pytest.approx(own if expected == "own" else expected, rel=1e-6)
    assert any("parity bound" in f for f in report.findings) == (scale == 0.9)


def test_without_the_bound_a_scale_is_taken_as_it_is(tiles: Tensor) -> None:
    conv = conv2d(3, 16)
    hs.initialize(conv, tiles, hs.PreWarm(scale=0.9, bound=False))
    assert conv.weight[:8].detach().double().std(correction=0).item() == pytest.approx(0.9, abs=1e-6)


def test_match_follows_the_fill_that_came_before(tiles: Tensor) -> None:
    conv = conv2d(3, 64)
    default = rms(conv.weight)
    hs.initialize(conv, tiles, ["lecun", "prewarm"])
    assert rms(conv.weight[:32]) == pytest.approx(rms(conv.weight[32:]), rel=0.1)
    assert rms(conv.weight[:32]) > 1.5 * default


def test_equal_norms_per_filter_on_request(digits: Tensor) -> None:
    conv = conv2d(1, 16)
    hs.initialize(conv, digits, "prewarm:norm=filter,scale=0.1")
    norms = conv.weight[:8].detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((8,), 0.1 * 3))


def test_global_scale_keeps_the_ratios_between_filters(digits: Tensor) -> None:
    small, large = conv2d(1, 16), conv2d(1, 16)
    hs.initialize(small, digits, "prewarm:scale=0.1")
    hs.initialize(large, digits, "prewarm:scale=0.2")
    torch.testing.assert_close(2 * small.weight[:8], large.weight[:8])
    norms = small.weight[:8].detach().flatten(1).norm(dim=1)
    assert norms.max() > 1.2 * norms.min()


@pytest.mark.parametrize(("fraction", "filters"), [(0.25, 25), (0.29, 29), (0.5, 50), (1.0, 100)])
def test_fraction_of_the_filters(fraction: float, filters: int, digits: Tensor) -> None:
    conv = conv2d(1, 100, 5)
    before = conv.weight.detach().clone()
    hs.initialize(conv, digits, hs.PreWarm(fraction=fraction, patches=8))
    changed = (conv.weight != before).flatten(1).any(1)
    assert changed.tolist() == [i < filters for i in range(100)]


def test_a_fraction_that_is_no_filter_is_refused(digits: Tensor) -> None:
    with pytest.raises(hs.HeadstartError, match=r"fraction=0\.1 of the 8 filters .* is none"):
        hs.initialize(conv2d(), digits, hs.PreWarm(fraction=0.1))


def test_taper_before_clustering_clusters_tapered_patches(digits: Tensor) -> None:
    conv = conv2d(1, 8)
    alpha = rms(conv.weight)
    patches = draw_patches(digits.numpy(), (3, 3), 9, rng.generator(0, "", "patches"))
    patches = (patches - patches.mean(1, keepdims=True)) * taper_by_loop(1, (3, 3)).astype(np.float32)
    state = rng.derive(0, "", "clusters/0") & 0x7FFFFFFF
    centroids = clustered(patches, 4, state)
    expected = (alpha * centroids / np.sqrt((centroids**2).mean())).reshape(4, 1, 3, 3)
    hs.initialize(conv, digits, "prewarm:taper=before,patches=9")
    np.testing.assert_allclose(conv.weight[:4].detach().numpy(), expected, atol=1e-5)


def test_without_taper_filters_have_no_mean(digits: Tensor) -> None:
    conv = conv2d()
    hs.initialize(conv, digits, "prewarm:taper=none")
    assert conv.weight[:4].detach().sum((1, 2, 3)).abs().max() < 1e-5


def test_source_patches_writes_patches_that_the_images_hold(digits: Tensor) -> None:
    conv = conv2d(1, 12)
    hs.initialize(conv, digits, hs.PreWarm(source="patches", patches=5))
    drawn = draw_patches(digits.numpy(), (3, 3), 5, rng.generator(0, "", "patches"))
    tapered = (drawn - drawn.mean(1, keepdims=True)) * taper_by_loop(1, (3, 3))
    tapered = tapered[np.linalg.norm(tapered, axis=1) > 1e-3]
    tapered /= np.linalg.norm(tapered, axis=1, keepdims=True)
    written = conv.weight[:6].detach().flatten(1).double().numpy()
    written = written / np.linalg.norm(written, axis=1, keepdims=True)
    assert (written @ tapered.T).max(1).min() > 1 - 1e-6
    assert len(np.unique(written.round(5), axis=0)) == 6, "no patch twice"


@pytest.mark.parametrize("source", ["centroids", "patches"])
def test_no_pattern_is_taken_twice_whatever_its_brightness(source: str) -> None:
    corner = torch.zeros(64, 1, 7, 7)
    corner[:, :, 3:, 3:] = 1  # few patterns, each of them many times
    corner = corner + torch.linspace(0, 3000, 64).reshape(-1, 1, 1, 1)
    conv = conv2d(1, 64)
    before = conv.weight.detach().clone()
    report = hs.initialize(conv, corner, hs.PreWarm(source=source, patches=25))
    changed = (conv.weight != before).flatten(1).any(1)
    # The corner at four places, a horizontal edge at two, a vertical edge at two.
    assert int(changed.sum()) == 8
    assert any("24 of 32" in f for f in report.findings)
    rows = conv.weight.detach()[changed].flatten(1)
    assert torch.pdist(rows).min() > 1e-2 * rows.norm(dim=1).max()


def test_source_shuffled_keeps_every_filters_values_and_loses_their_places(digits: Tensor) -> None:
    real, control = conv2d(1, 16), conv2d(1, 16)
    hs.initialize(real, digits, "prewarm")
    hs.initialize(control, digits, "prewarm:source=shuffled")
    a, b = real.weight[:8].detach().flatten(1), control.weight[:8].detach().flatten(1)
    torch.testing.assert_close(a.sort(1).values, b.sort(1).values)
    moved = (a != b).any(1)
    assert moved.all(), "nine values stay in place once in 362,880 times"


def test_groups_are_clustered_on_their_own_channels() -> None:
    draw = torch.Generator().manual_seed(0)
    smooth = torch.randn(40, 1, 9, 9, generator=draw).cumsum(2)  # varies along rows
    other = torch.randn(40, 1, 9, 9, generator=draw).cumsum(3)  # along columns
    conv = conv2d(2, 8, groups=2)
    before = conv.weight.detach().clone()
    hs.initialize(conv, torch.cat([smooth, other], 1), hs.PreWarm(patches=10))
    changed = (conv.weight != before).flatten(1).any(1)
    assert changed.tolist() == [True, True, False, False] * 2
    for g, images in enumerate((smooth, other)):
        alone = conv2d(1, 4)
        with torch.no_grad():
            alone.weight.copy_(before[4 * g : 4 * g + 4])
        patches = draw_patches(images.numpy(), (3, 3), 10, rng.generator(0, "", "patches"))
        patches = patches - patches.mean(1, keepdims=True)
        state = rng.derive(0, "", f"clusters/{g}") & 0x7FFFFFFF
        centroids = clustered(patches, 2, state)
        expected = centroids * taper_by_loop(1, (3, 3))
        written = conv.weight[4 * g : 4 * g + 2].detach().flatten(1).numpy()
        ratio = written / expected
        assert ratio.std() < 1e-3 * abs(ratio.mean()), "one factor for all filters"


def test_depthwise_groups_share_their_clusters(tiles: Tensor) -> None:
    conv = conv2d(3, 6, groups=3)
    before = conv.weight.detach().clone()
    report = hs.initialize(conv, tiles, "prewarm")
    changed = (conv.weight != before).flatten(1).any(1)
    assert changed.tolist() == [True, False] * 3
    count = int(report.row("").notes[-1].split()[0])
    patches = draw_patches(tiles.numpy(), (3, 3), count, rng.generator(0, "", "patches")).reshape(-1, 3, 9)
    pooled = patches.transpose(1, 0, 2).reshape(-1, 9)  # a group after the other
    pooled = pooled - pooled.mean(1, keepdims=True)
    state = rng.derive(0, "", "clusters/0") & 0x7FFFFFFF
    centroids = clustered(pooled, 3, state)
    ratio = conv.weight.detach()[changed].flatten(1).numpy() / (centroids * taper_by_loop(1, (3, 3)))
    assert ratio.std() < 1e-2 * abs(ratio.mean()), "one factor for all filters"


def test_dilated_kernels_take_dilated_patches() -> None:
    wave = torch.arange(24.0).remainder(2).expand(24, 24).clone()  # period 2: constant under dilation 2
    images = wave * torch.rand(30, 1, 1, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    with pytest.raises(hs.DataError, match="all are constant"):
        hs.initialize(conv2d(dilation=2), images, hs.PreWarm(patches=10))
    hs.initialize(conv2d(dilation=1), images, hs.PreWarm(patches=10))


def test_pointwise_convolutions_are_passed_over_and_said_so(digits: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 3))
    before = model[0].weight.detach().clone()
    report = hs.initialize(model, digits, "prewarm")
    assert torch.equal(model[0].weight, before)
    assert report.changed == ["1"]
    assert any("1×1 kernel" in f for f in report.findings)


def test_fewer_distinct_patches_than_filters_leaves_the_rest_random() -> None:
    edge = torch.zeros(16, 1, 8, 8)
    edge[..., 4:] = 1  # three kinds of patches: flat, edge one column in, edge two columns in
    edge[8:] = edge[8:] * 2  # other samples, twice the contrast
    conv = conv2d(1, 32)
    before = conv.weight.detach().clone()
    report = hs.initialize(conv, edge, hs.PreWarm(patches=30))
    changed = int((conv.weight != before).flatten(1).any(1).sum())
    assert changed == 4, "two edges in two strengths"
    assert torch.equal(conv.weight[4:], before[4:])
    assert any("fewer distinct patches than filters" in f and "12 of 16" in f for f in report.findings)
    assert conv.weight.isfinite().all()


@pytest.mark.parametrize("source", ["centroids", "patches", "shuffled"])
def test_flat_patches_of_any_brightness_are_no_structure(source: str) -> None:
    flat = torch.rand(64, 1, 1, 1, generator=torch.Generator().manual_seed(0)).expand(64, 1, 12, 12) + 5.3
    conv = conv2d()
    before = conv.weight.detach().clone()
    with pytest.raises(hs.DataError, match="all are constant"):
        hs.initialize(conv, flat, hs.PreWarm(patches=10, source=source))
    assert torch.equal(conv.weight, before)


def test_zero_weights_have_no_size_to_match(digits: Tensor) -> None:
    conv = conv2d()
    nn.init.zeros_(conv.weight)
    with pytest.raises(hs.HeadstartError, match="all zero, so there is no size to match"):
        hs.initialize(conv, digits, "prewarm:zeros=write")
    hs.initialize(conv, digits, "prewarm:scale=bound,zeros=write")
    assert rms(conv.weight[:4]) == pytest.approx(math.sqrt(2 / 9), rel=1e-6)


def test_the_colour_rule_sees_through_a_normalization_it_is_told(tiles: Tensor) -> None:
    mean, std = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)
    shape = (1, 3, 1, 1)
    standardized = (tiles - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)
    raw, told = (
        hs.initialize(conv2d(3, 32), x, m).row("").notes[0]
        for x, m in ((tiles, hs.PreWarm(patches="rule")), (standardized, hs.PreWarm(mean=mean, std=std)))
    )
    assert raw == told
    assert "patches per sample" in raw


def test_the_colour_rule_refuses_what_it_cannot_know_and_auto_says_what_it_did(tiles: Tensor) -> None:
    standardized = (tiles - 0.5) / 0.25
    conv = conv2d(3, 16)
    with pytest.raises(hs.DataError, match=r"pixels in \[0, 1\].*mean= and std="):
        hs.initialize(conv, standardized, hs.PreWarm(patches="rule"))
    report = hs.initialize(conv, standardized, "prewarm")
    assert f"{math.ceil(256 * 8 / 256)} patches per sample" in report.row("").notes[0]
    assert any("raw pixels are not known" in f for f in report.findings)


def test_rules_can_be_forced(tiles: Tensor, digits: Tensor) -> None:
    by_otsu = hs.initialize(conv2d(3, 32), tiles, "prewarm:patches=otsu")
    assert f"{math.floor(8 / foreground_density(tiles))} patches" in by_otsu.row("").notes[0]
    by_norm = hs.initialize(conv2d(1, 32), digits, "prewarm:patches=norm")
    measured = draw_patches(digits.numpy(), (3, 3), 20, rng.generator(0, "", "rule"))
    norm = np.linalg.norm(measured - measured.mean(1, keepdims=True), axis=1).mean()
    assert f"{math.floor(8 * 6.65 * norm)} patches" in by_norm.row("").notes[0]


def test_a_rule_never_asks_for_more_than_memory_can_bear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.methods.prewarm.MOST_PATCHES", 2**11)
    sparse = torch.zeros(32, 1, 40, 40)
    sparse[:, :, 20, 20] = 1  # density 1 / 1600: the rule asks for 51,200 patches per image
    sparse[0, :, 19, 20] = 1
    report = hs.initialize(conv2d(1, 128), sparse, hs.PreWarm(fraction=0.05))
    assert "64 patches per sample, 2048 in all" in report.row("").notes[-1]
    assert any("reduced to 64" in f for f in report.findings)


def test_large_patches_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.methods.prewarm.ENTRIES", 2**17)
    volumes = torch.randn(4, 2, 9, 9, 9, generator=torch.Generator().manual_seed(0))
    report = hs.initialize(nn.Conv3d(2, 8, 8), volumes, hs.PreWarm(fraction=1.0))
    assert "32 patches per sample, 128 in all" in report.row("").notes[-1]
    assert any("reduced to 32, 128 in all" in finding for finding in report.findings)


@pytest.mark.parametrize(
    "options",
    [
        {"fraction": 0.0},
        {"fraction": 1.5},
        {"fraction": True},
        {"patches": 0},
        {"patches": True},
        {"patches": "many"},
        {"scale": "big"},
        {"scale": 0.0},
        {"scale": math.nan},
        {"norm": "l1"},
        {"taper": "during"},
        {"source": "noise"},
        {"algorithm": "elkan"},
        {"mean": (0.5,)},
        {"mean": (0.5,), "std": (0.0,)},
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, object]) -> None:
    with pytest.raises(hs.HeadstartError, match="prewarm: "):
        hs.PreWarm(**options)  # type: ignore[arg-type]


def test_one_number_stands_for_the_one_channel() -> None:
    assert hs.PreWarm(mean=0.5, std=0.25) == hs.PreWarm(mean=(0.5,), std=(0.25,))  # type: ignore[arg-type]
