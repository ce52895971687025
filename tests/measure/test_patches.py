"""Patches against slices taken one by one; image statistics against plain numpy; published counts on real images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

import headstart as hs
from headstart.measure.patches import (
    every_patch,
    foreground_density,
    mean_patch_norm,
    otsu_threshold,
    raw_pixels,
    sample_patches,
    taper,
)
from headstart.model.weights import Layer

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def positions_as_values(batch: int, channels: int, space: tuple[int, ...]) -> Tensor:
    """Images in which every value is its own index: a patch tells where it came from."""
    return torch.arange(batch * channels * int(np.prod(space)), dtype=torch.float64).reshape(batch, channels, *space)


@pytest.mark.parametrize(
    ("space", "kernel", "dilation"),
    [
        ((17,), (5,), (1,)),
        ((17,), (4,), (3,)),
        ((9, 7), (3, 3), (1, 1)),
        ((9, 11), (3, 2), (2, 3)),
        ((9, 7), (1, 7), (1, 1)),
        ((5, 6, 7), (2, 3, 4), (2, 1, 1)),
    ],
)
def test_every_patch_is_a_slice_of_its_own_image(
    space: tuple[int, ...], kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> None:
    images = positions_as_values(3, 2, space)
    layer = Layer("c", CONVS[len(space)](2, 4, kernel, dilation=dilation))
    patches = sample_patches(images, layer, 40, torch.Generator().manual_seed(0))
    assert patches.shape == (120, 2, *kernel)
    numbers = images.numpy()
    for n, patch in enumerate(patches.numpy()):
        corner = np.unravel_index(int(patch.reshape(-1)[0]), images.shape)
        assert corner[0] == n // 40, "patches come image by image"
        assert corner[1] == 0
        places = tuple(slice(c, c + (k - 1) * d + 1, d) for c, k, d in zip(corner[2:], kernel, dilation, strict=True))
        np.testing.assert_array_equal(patch, numbers[(corner[0], slice(None), *places)])


@pytest.mark.parametrize(
    ("space", "kernel", "dilation"), [((9,), (4,), 2), ((5, 6), (3, 2), 1), ((4, 5, 4), (2, 3, 2), 1)]
)
def test_every_patch_means_each_place_once(space: tuple[int, ...], kernel: tuple[int, ...], dilation: int) -> None:
    images = positions_as_values(3, 2, space)
    layer = Layer("c", CONVS[len(space)](2, 4, kernel, dilation=dilation))
    reach = [(k - 1) * dilation + 1 for k in kernel]
    corners = list(np.ndindex(*(s - r + 1 for s, r in zip(space, reach, strict=True))))
    expected = [
        image[(slice(None), *(slice(c, c + r, dilation) for c, r in zip(corner, reach, strict=True)))]
        for image in images.numpy()
        for corner in corners
    ]
    np.testing.assert_array_equal(every_patch(images, layer).numpy(), np.stack(expected))


def test_corners_are_uniform_over_all_places_edges_included() -> None:
    images = positions_as_values(1, 1, (6, 8))
    layer = Layer("c", nn.Conv2d(1, 1, 3))
    patches = sample_patches(images, layer, 24_000, torch.Generator().manual_seed(1))
    rows, columns = np.unravel_index(patches[:, 0, 0, 0].long().numpy(), (6, 8))
    counts = np.zeros((6, 8))
    np.add.at(counts, (rows, columns), 1)
    assert counts[4:].sum() == counts[:, 6:].sum() == 0
    assert stats.chisquare(counts[:4, :6].reshape(-1)).pvalue > 1e-3


def test_an_input_without_batch_axis_is_one_image() -> None:
    images = positions_as_values(1, 2, (9, 9))
    layer = Layer("c", nn.Conv2d(2, 4, 3))
    with_axis = sample_patches(images, layer, 7, torch.Generator().manual_seed(2))
    without = sample_patches(images[0], layer, 7, torch.Generator().manual_seed(2))
    assert torch.equal(with_axis, without)


def test_half_precision_is_widened() -> None:
    images = torch.rand(2, 1, 6, 6).bfloat16()
    patches = sample_patches(images, Layer("c", nn.Conv2d(1, 4, 3)), 5, torch.Generator().manual_seed(0))
    assert patches.dtype == torch.float32


def test_an_image_smaller_than_the_dilated_kernel_is_refused_with_its_shapes() -> None:
    layer = Layer("stem", nn.Conv2d(1, 4, 3, dilation=3))
    with pytest.raises(hs.DataError, match=r"'stem'.*6×20.*3×3 dilated by \(3, 3\)"):
        sample_patches(torch.rand(2, 1, 6, 20), layer, 5, torch.Generator())


@pytest.mark.parametrize("kernel", [(1,), (4,), (3, 3), (5, 2), (4, 4), (3, 1, 6)])
def test_taper_is_one_over_one_plus_the_manhattan_distance(kernel: tuple[int, ...]) -> None:
    weights = taper(kernel)
    assert weights.shape == kernel
    for place in np.ndindex(*kernel):
        distance = sum(abs(i - (k - 1) / 2) for i, k in zip(place, kernel, strict=True))
        assert weights[place].item() == pytest.approx(1 / (1 + distance))


def otsu_by_search(values: np.ndarray) -> float:
    """Otsu's threshold by trying every cut of a 256-bin histogram."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    best, found = -1.0, 0
    for cut in range(255):
        low, high = counts[: cut + 1], counts[cut + 1 :]
        spread = 0.0
        if low.sum() and high.sum():
            gap = np.average(centres[: cut + 1], weights=low) - np.average(centres[cut + 1 :], weights=high)
            spread = float(low.sum()) * float(high.sum()) * gap**2
        if spread > best * (1 + 1e-12):
            best, found = spread, cut
    return float(centres[found])


@pytest.mark.parametrize("seed", range(5))
def test_otsu_is_the_cut_that_an_exhaustive_search_finds(seed: int) -> None:
    draw = np.random.default_rng(seed)
    levels = np.concatenate([draw.normal(60, 20, 4000), draw.normal(170, 30, 2000)]).clip(0, 255).astype(np.uint8)
    values = (levels / 255).astype(np.float32)
    threshold = otsu_by_search(values)
    assert otsu_threshold(torch.from_numpy(values)) == pytest.approx(threshold, abs=1e-6)
    assert foreground_density(torch.from_numpy(values)) == pytest.approx(float((values > threshold).mean()), abs=1e-12)


@settings(max_examples=150)
@given(
    levels=st.lists(st.integers(0, 255), min_size=2, max_size=60),
    mean=st.floats(-3, 3, width=32),
    std=st.floats(0.0625, 16, width=32),
)
@example(levels=[18, 50, 40, 45, 29, 21, 50, 47, 20, 24, 43, 30], mean=-1.439, std=2.0)  # levels on edges of bins
def test_otsu_finds_the_same_pixels_on_raw_and_on_standardized_images(
    levels: list[int], mean: float, std: float
) -> None:
    raw = torch.tensor(levels, dtype=torch.float32) / 255
    standardized = (raw - mean) / std
    assert foreground_density(raw) == foreground_density(standardized)


def test_otsu_of_a_constant_is_that_constant_and_finds_no_foreground() -> None:
    assert otsu_threshold(torch.full((10,), 0.25)) == 0.25
    assert foreground_density(torch.full((10,), 0.25)) == 0


def test_mean_patch_norm_centres_jointly_over_channels() -> None:
    patches = torch.rand(50, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    lengths = [np.linalg.norm(p - p.mean()) for p in patches.numpy().astype(np.float64)]
    assert mean_patch_norm(patches) == pytest.approx(np.mean(lengths), rel=1e-6)


def test_raw_pixels_are_recognized_or_refused() -> None:
    pixels = torch.randint(0, 256, (4, 3, 5, 5), generator=torch.Generator().manual_seed(0)).float()
    unit = pixels / 255
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    shape = (1, 3, 1, 1)
    standardized = (unit - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)
    assert torch.equal(raw_pixels(unit, None, None), unit)
    torch.testing.assert_close(raw_pixels(pixels, None, None), unit)
    torch.testing.assert_close(raw_pixels(standardized, mean, std), unit, atol=1e-6, rtol=0)
    assert raw_pixels(standardized, None, None) is None
    assert raw_pixels(unit * 2 - 1, None, None) is None, "[-1, 1] is a normalization too"
    assert raw_pixels(unit * 100, None, None) is None, "neither unit pixels nor whole numbers"
    assert raw_pixels(unit, mean, std) is not None
    with pytest.raises(hs.DataError, match="2 and 2 values for images of 3 channels"):
        raw_pixels(standardized, (0.5, 0.4), (0.2, 0.25))
