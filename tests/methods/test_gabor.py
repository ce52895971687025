"""Gabor filters against the closed form, value by value, with the parameters drawn again from the stream."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import headstart as hs
from headstart import rng

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def parameters(filters: int, dims: int, size: float, shortest: float, seed: int = 0) -> dict[str, np.ndarray]:
    """What the method draws for a layer called '', in its order."""
    stream = rng.generator(seed, "", "weight")

    def uniform(low: float, high: float) -> np.ndarray:
        return low + (high - low) * torch.rand(filters, generator=stream, dtype=torch.float64).numpy()

    direction = torch.randn(filters, dims, generator=stream, dtype=torch.float64).numpy()
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    sx = uniform(1.5 * size, 2.5 * size)
    sy = sx / uniform(0.9, 1.1)
    wavelength = uniform(max(shortest, 2.0 * size), max(shortest, 13.0 * size))
    return {"direction": direction, "sx": sx, "sy": sy, "wavelength": wavelength, "phase": uniform(0, 2 * math.pi)}


def plane(kernel: tuple[int, ...], grids: list[np.ndarray], p: dict[str, np.ndarray], m: int) -> np.ndarray:
    values = np.zeros(kernel)
    for place in np.ndindex(*kernel):
        point = np.array([g[i] for g, i in zip(grids, place, strict=True)])
        along = float(point @ p["direction"][m])
        across = float(np.linalg.norm(point - along * p["direction"][m]))
        window = math.exp(-((along / p["sx"][m]) ** 2 + (across / p["sy"][m]) ** 2) / 2)
        values[place] = window * math.cos(2 * math.pi * along / p["wavelength"][m] + p["phase"][m])
    return values


@pytest.mark.parametrize("kernel", [(7,), (8,), (7, 7), (6, 6), (5, 9), (11, 11), (5, 5, 5)])
def test_the_default_is_centred_without_mean_and_at_the_layers_norm(kernel: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    conv = CONVS[len(kernel)](2, 6, kernel)
    rms = conv.weight.detach().square().mean().sqrt().item()
    hs.initialize(conv, method="gabor", seed=4)
    p = parameters(6, len(kernel), max(kernel) / 7, 2.0, seed=4)
    grids = [np.arange(k) - (k - 1) / 2 for k in kernel]
    weights = torch.randn(6, 2, *[1] * len(kernel), generator=rng.generator(4, "", "channels")).numpy()
    for m in range(6):
        values = plane(kernel, grids, p, m)
        expected = (values - values.mean()) * weights[m]
        expected *= rms / np.sqrt((expected**2).mean())
        np.testing.assert_allclose(conv.weight[m].detach().numpy(), expected, atol=1e-6 * np.abs(expected).max() + 1e-7)


@pytest.mark.parametrize("k", [3, 7, 8])
def test_the_preset_is_the_published_form_half_a_pixel_off(k: int) -> None:
    conv = nn.Conv2d(3, 6, k)
    hs.initialize(conv, method="gabor:paper", seed=2)
    p = parameters(6, 2, 1.0, 2.0, seed=2)
    grid = np.linspace(-k // 2, k // 2, k)
    assert grid.mean() == pytest.approx(0 if k == 8 else -0.5), "odd kernels are off-centre, as published"
    for m in range(6):
        expected = plane((k, k), [grid, grid], p, m)
        for c in range(3):
            np.testing.assert_allclose(conv.weight[m, c].detach().numpy(), expected, atol=1e-6)


def test_the_preset_has_the_published_norm_and_mean() -> None:
    conv = nn.Conv2d(1, 4000, 7)
    hs.initialize(conv, method=hs.Gabor.paper())
    planes = conv.weight.detach()[:, 0]
    assert planes.flatten(1).norm(dim=1).mean().item() == pytest.approx(2.1, abs=0.05)
    assert planes.sum((1, 2)).abs().mean().item() == pytest.approx(3.2, abs=0.15)


def test_orientations_are_uniform() -> None:
    p = parameters(20_000, 2, 1.0, 2.0)
    angles = np.arctan2(p["direction"][:, 0], p["direction"][:, 1]) % math.pi
    assert np.histogram(angles, 10, (0, math.pi))[0] == pytest.approx(2000, rel=0.1)


def test_norms_and_means() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 64, 7)
    rms = conv.weight.detach().square().mean().sqrt().item()
    hs.initialize(conv, method="gabor")
    weight = conv.weight.detach()
    torch.testing.assert_close(weight.flatten(1).square().mean(1).sqrt(), torch.full((64,), rms))
    assert weight.sum((2, 3)).abs().max() < 1e-5, "each plane sums to zero, so each filter does"
    planes = weight.flatten(2)
    cosine = nn.functional.cosine_similarity(planes[:, 0], planes[:, 1]).abs()
    torch.testing.assert_close(cosine, torch.ones(64), atol=1e-4, rtol=0)  # one plane, a weight per channel
    ratio = planes[:, 0].norm(dim=1) / planes[:, 1].norm(dim=1)
    assert ratio.max() > 2 > 0.5 > ratio.min()


def test_a_number_as_scale_is_the_root_mean_square() -> None:
    conv = nn.Conv2d(3, 8, 7)
    hs.initialize(conv, method=hs.Gabor(scale=0.3, channels="same"))
    torch.testing.assert_close(conv.weight.detach().flatten(1).square().mean(1).sqrt(), torch.full((8,), 0.3))
    assert torch.equal(conv.weight[:, 0], conv.weight[:, 2])


def test_the_first_n_convolutions_get_filters_of_their_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 5), nn.Conv2d(4, 4, 5))
    report = hs.initialize(model, method="gabor:layers=2")
    assert report.changed == ["0", "2"]
    assert not torch.allclose(model[0].weight[:, 0], model[2].weight[:, 0])
    notes = {row.name: row.notes for row in report.rows}
    assert notes["1"] == ["a 1×1 kernel has no spatial structure"]
    assert notes["3"] == ["not among the first 2 convolutions"]


def test_grouped_and_depthwise() -> None:
    conv = nn.Conv2d(8, 8, 7, groups=8)
    hs.initialize(conv, method="gabor")
    assert conv.weight.detach().sum((1, 2, 3)).abs().max() < 1e-5


def test_a_small_kernel_is_said_to_be_too_small() -> None:
    report = hs.initialize(nn.Conv2d(1, 4, 3), method="gabor")
    assert any("too small for most waves" in f for f in report.findings)
    assert not any("too small" in f for f in hs.initialize(nn.Conv2d(1, 4, 5), method="gabor").findings)


def test_no_wave_is_shorter_than_two_pixels() -> None:
    narrow = hs.Gabor(wavelength=(0.5, 1.0), channels="same")
    conv = nn.Conv1d(1, 200, 7)
    hs.initialize(conv, method=narrow)
    # A wave of exactly two pixels alternates: it has as many sign changes as a row of pixels can show.
    signs = conv.weight.detach()[:, 0].sign()
    changes = (signs[:, 1:] != signs[:, :-1]).sum(1).float().mean()
    assert changes > 5.5


@pytest.mark.parametrize(
    "options",
    [
        {"layers": 0},
        {"scale": "paper"},
        {"channels": "all"},
        {"sigma": (2.5, 1.5)},
        {"sigma": 2.0},
        {"wavelength": (0.0, 1.0)},
        {"aspect": (0.9,)},
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, object]) -> None:
    with pytest.raises(hs.HeadstartError, match="gabor: "):
        hs.Gabor(**options)  # type: ignore[arg-type]
