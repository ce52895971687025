"""Pre-Warm's patch counts on whole real training sets, against the published figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import headstart as hs
from headstart import rng
from headstart.measure.patches import foreground_density, otsu_threshold
from headstart.methods.prewarm import NORM_RULE

RealData = Callable[[str], Path]
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def idx_images(folder: Path) -> Tensor:
    raw = np.fromfile(folder / "raw" / "train-images-idx3-ubyte", np.uint8)[16:]
    return torch.from_numpy(raw).reshape(-1, 1, 28, 28).float().div_(255)


@pytest.mark.parametrize(
    ("name", "folder", "tau", "density", "count"),
    [
        pytest.param("mnist", "MNIST", 0.4434, 0.1373, 58, marks=pytest.mark.slow),
        pytest.param("fashion-mnist", "FashionMNIST", 0.3809, 0.3602, 22, marks=pytest.mark.slow),
    ],
)
def test_gray_counts_are_the_published_ones_raw_and_standardized(
    name: str, folder: str, tau: float, density: float, count: int, real_data: RealData
) -> None:
    images = idx_images(real_data(name) / folder)
    assert len(images) == 60_000
    assert otsu_threshold(images) == pytest.approx(tau, abs=5e-5)
    raw = foreground_density(images)
    assert raw == pytest.approx(density, abs=5e-5)
    assert math.floor(32 / 4 / raw) == count
    # A batch gives nearly the count of the whole set, in either scale.
    batch = images[torch.randperm(60_000, generator=torch.Generator().manual_seed(0))[:256]]
    notes = [
        hs.initialize(nn.Conv2d(1, 32, 3), x, "prewarm").row("").notes[-1]
        for x in (batch, (batch - images.mean()) / images.std())
    ]
    assert notes[0] == notes[1]
    assert int(notes[0].split()[0]) == pytest.approx(count, abs=4)
    mean, std = float(images.mean()), float(images.std())
    assert foreground_density(images.sub_(mean).div_(std)) == raw


def test_colour_counts_on_raw_and_on_standardized_pixels(real_data: RealData) -> None:
    array = np.load(real_data("cifar100") / "cifar100" / "train-images.npy", mmap_mode="r")
    view = torch.from_numpy(array[:1024].copy()).permute(0, 3, 1, 2)
    unit = view.float() / 255
    shape = (1, 3, 1, 1)
    standardized = (unit - torch.tensor(MEAN).reshape(shape)) / torch.tensor(STD).reshape(shape)
    stream = rng.generator(0, "", "rule")
    top, left = (torch.randint(30, (1024, 20), generator=stream).numpy() for _ in range(2))
    pixels = unit.numpy()
    lengths = []
    for b in range(1024):
        for i, j in zip(top[b], left[b], strict=True):
            patch = pixels[b, :, i : i + 3, j : j + 3]
            lengths.append(np.linalg.norm(patch - patch.mean()))
    expected = math.floor(8 * 6.65 * np.mean(lengths))
    # Published norms: 0.5217 on CIFAR-10 (27 patches), 0.3082 on SVHN (16). These images are of the first kind.
    assert 0.45 < np.mean(lengths) < 0.65
    for x, method in (
        (unit, hs.PreWarm(patches="rule")),
        (view.float(), hs.PreWarm(patches="rule")),
        (standardized, hs.PreWarm(mean=MEAN, std=STD)),
        (unit, hs.PreWarm.paper()),
    ):
        notes = hs.initialize(nn.Conv2d(3, 32, 3), x, method).row("").notes
        assert notes[-1].startswith(f"{expected} patches per sample")
    with pytest.raises(hs.DataError, match="mean= and std="):
        hs.initialize(nn.Conv2d(3, 32, 3), standardized, "prewarm:paper")
    report = hs.initialize(nn.Conv2d(3, 32, 3), standardized, "prewarm")
    assert any("raw pixels are not known" in f for f in report.findings)


def test_the_colour_constant_gives_the_published_counts() -> None:
    assert math.floor(8 * NORM_RULE * 0.5217) == 27, "CIFAR-10"
    assert math.floor(8 * NORM_RULE * 0.3082) == 16, "SVHN, where the published run used 15"
