"""Whitening against scikit-learn's decomposition of patches unfolded one by one, and what it does to outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from torch import Tensor, nn

import headstart as hs

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def every_patch(images: np.ndarray, kernel: tuple[int, ...]) -> np.ndarray:
    """All patches of all images, in float64, a row each."""
    places = np.ndindex(*(s - k + 1 for s, k in zip(images.shape[2:], kernel, strict=True)))
    rows = []
    for corner in places:
        window = tuple(slice(c, c + k) for c, k in zip(corner, kernel, strict=True))
        rows.append(images[(slice(None), slice(None), *window)].reshape(len(images), -1))
    return np.concatenate(rows).astype(np.float64)


def conv2d(channels: int, filters: int, kernel: int = 3, **options: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, filters, kernel, bias=False, **options)


def unit_rows(weight: Tensor) -> np.ndarray:
    flat = weight.detach().double().flatten(1).numpy()
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def centred(tiles: Tensor) -> Tensor:
    """Colour tiles with clearly different variances along their leading directions."""
    return (tiles - tiles.mean((0, 2, 3), keepdim=True)) / tiles.std((0, 2, 3), keepdim=True)


def test_directions_and_their_order_are_those_of_the_decomposition(centred: Tensor) -> None:
    conv = conv2d(3, 12)
    hs.initialize(conv, centred, "whitening")
    patches = every_patch(centred.numpy(), (3, 3))
    reference = TruncatedSVD(6, algorithm="arpack", random_state=0).fit(patches)  # no centring, like the method
    written = unit_rows(conv.weight[:6])
    np.testing.assert_allclose(np.abs((written * reference.components_).sum(1)), 1, atol=1e-6)
    second = ((patches @ written.T) ** 2).mean(0)
    assert (np.diff(second) < 0).all(), "largest first"
    np.testing.assert_allclose(second, reference.singular_values_**2 / len(patches), rtol=1e-5)


def test_every_direction_comes_with_its_negative(centred: Tensor) -> None:
    conv = conv2d(3, 20)
    hs.initialize(conv, centred, "whitening")
    assert torch.equal(conv.weight[:10], -conv.weight[10:])
    gram = unit_rows(conv.weight[:10]) @ unit_rows(conv.weight[:10]).T
    np.testing.assert_allclose(gram, np.eye(10), atol=1e-6)


def test_an_odd_number_of_filters_lacks_the_last_negative(centred: Tensor) -> None:
    conv = conv2d(3, 7)
    hs.initialize(conv, centred, "whitening")
    assert torch.equal(conv.weight[:3], -conv.weight[4:])


def test_without_signs_every_direction_comes_once(centred: Tensor) -> None:
    conv = conv2d(3, 27)
    hs.initialize(conv, centred, "whitening:signs=false")
    rows = unit_rows(conv.weight)
    np.testing.assert_allclose(rows @ rows.T, np.eye(27), atol=1e-6)


def test_the_published_scale_whitens_the_outputs(centred: Tensor) -> None:
    conv = conv2d(3, 12)
    hs.initialize(conv, centred, hs.Whitening(scale="whiten", signs=False, eps=0.0))
    with torch.no_grad():
        out = conv(centred).double().transpose(0, 1).flatten(1)
    second = (out @ out.T / out.shape[1]).numpy()
    np.testing.assert_allclose(second, np.eye(12), atol=1e-4)


def test_the_preset_is_the_published_form(centred: Tensor) -> None:
    conv = conv2d(3, 24, 2)
    hs.initialize(conv, centred, "whitening:airbench")
    patches = every_patch(centred.numpy(), (2, 2))
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    norms = conv.weight[:12].detach().double().flatten(1).norm(dim=1).numpy()
    np.testing.assert_allclose(norms, 1 / np.sqrt(values[::-1] + 5e-4), rtol=1e-5)
    np.testing.assert_allclose(np.abs((unit_rows(conv.weight[:12]) * vectors[:, ::-1].T).sum(1)), 1, atol=1e-6)
    assert torch.equal(conv.weight[:12], -conv.weight[12:])


@pytest.mark.parametrize(("scale", "factor"), [("match", 1.0), (0.5, None)])
def test_every_filter_has_the_root_mean_square_asked_for(
    scale: float | str, factor: float | None, centred: Tensor
) -> None:
    conv = conv2d(3, 16)
    own = conv.weight.detach().square().mean().sqrt().item()
    hs.initialize(conv, centred, hs.Whitening(scale=scale))
    rms = conv.weight.detach().flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.full((16,), own if factor else float(scale)))


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_fraction_of_the_filters(fraction: float, centred: Tensor) -> None:
    conv = conv2d(3, 16)
    before = conv.weight.detach().clone()
    hs.initialize(conv, centred, hs.Whitening(fraction=fraction))
    changed = (conv.weight != before).flatten(1).any(1)
    assert changed.tolist() == [i < 16 * fraction for i in range(16)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_data_of_few_dimensions_fill_few_filters(dtype: torch.dtype, digits: Tensor) -> None:
    gray = digits.repeat(1, 3, 1, 1)  # 9 of 27 directions
    conv = conv2d(3, 32).to(dtype)
    before = conv.weight.detach().clone()
    report = hs.initialize(conv, gray, "whitening")
    assert torch.equal(conv.weight[18:], before[18:])
    assert (conv.weight[:18] != before[:18]).flatten(1).any(1).all()
    written = conv.weight[:18].detach().float()
    torch.testing.assert_close(written[:, 0], written[:, 1], atol=2e-2 if dtype == torch.bfloat16 else 1e-6, rtol=0)
    assert any("span fewer directions" in f and "14 of 32" in f for f in report.findings)


def test_rounding_to_half_precision_adds_no_directions(digits: Tensor) -> None:
    gray = digits * torch.tensor([1.0, 0.83, 0.61]).reshape(1, 3, 1, 1)  # 9 of 27 directions but for the rounding
    conv = conv2d(3, 54).bfloat16()
    before = conv.weight.detach().clone()
    hs.initialize(conv, gray, "whitening:scale=whiten,eps=0")
    changed = (conv.weight != before).flatten(1).any(1)
    assert 8 <= int(changed.sum()) <= 18
    assert conv.weight.detach().float().norm(dim=1).max() < 1e3


def test_flat_images_span_one_direction_and_zeros_none() -> None:
    flat = torch.rand(64, 1, 1, 1, generator=torch.Generator().manual_seed(0)).expand(64, 1, 8, 8)
    conv = conv2d(1, 8)
    hs.initialize(conv, flat, "whitening")
    np.testing.assert_allclose(unit_rows(conv.weight[:1]), np.full((1, 9), 1 / 3), atol=1e-6)
    dead = nn.Sequential(nn.Threshold(10.0, 0.0), conv2d(1, 8))
    with pytest.raises(hs.DataError, match="are zero"):
        hs.initialize(dead, flat, "whitening")


def test_groups_are_decomposed_on_their_own_channels() -> None:
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(64, 1, 8, 8, generator=draw).cumsum(2)
    second = torch.randn(64, 1, 8, 8, generator=draw).cumsum(3)
    conv = conv2d(2, 8, groups=2)
    hs.initialize(conv, torch.cat([first, second], 1), "whitening")
    for g, images in enumerate((first, second)):
        alone = conv2d(1, 4)
        hs.initialize(alone, images, "whitening")
        both = unit_rows(conv.weight[4 * g : 4 * g + 2]), unit_rows(alone.weight[:2])
        np.testing.assert_allclose(*both, atol=1e-6)
        assert torch.equal(conv.weight[4 * g : 4 * g + 2], -conv.weight[4 * g + 2 : 4 * g + 4])


@pytest.mark.parametrize(("space", "kernel"), [((40,), (5,)), ((7, 8, 9), (2, 3, 2))])
def test_one_and_three_dimensions(space: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    images = torch.randn(48, 2, *space, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    torch.manual_seed(0)
    conv = CONVS[len(kernel)](2, 8, kernel)
    hs.initialize(conv, images, "whitening")
    patches = every_patch(images.numpy(), kernel)
    vectors = np.linalg.eigh(patches.T @ patches)[1][:, ::-1].T
    np.testing.assert_allclose(np.abs((unit_rows(conv.weight[:4]) * vectors[:4]).sum(1)), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride"),
    [((96, 1, 256), (16,), 4), ((160, 3, 24, 24), (4, 4), 4), ((96, 1, 16, 16, 16), (4, 4, 4), 4)],
    ids=["sounds", "patch embedding", "volumes"],
)
def test_outputs_of_samples_that_were_not_seen_are_uncorrelated(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: int
) -> None:
    """Stationary data, so that patches at the stride's places are like those at all places."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    axes = tuple(range(2, len(shape)))
    falls = torch.meshgrid(*[torch.fft.fftfreq(n) for n in shape[2:]], indexing="ij")
    smooth = 1 / (0.05 + sum(f.square() for f in falls).sqrt())
    images = torch.fft.ifftn(torch.fft.fftn(noise, dim=axes) * smooth, dim=axes).real
    images = images / images.std()
    conv = CONVS[len(kernel)](shape[1], 8, kernel, stride, bias=False)
    hs.initialize(conv, images[:48], hs.Whitening(scale="whiten", signs=False, eps=1e-3))
    with torch.no_grad():
        out = conv(images[48:]).double().transpose(0, 1).flatten(1)
    second = (out @ out.T / out.shape[1]).numpy()
    assert out.shape[1] > 2900
    np.testing.assert_allclose(second, np.eye(8), atol=0.15)


def test_in_large_patches_directions_are_searched_and_whitened_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randn(24, 1, 3, 3, 3, generator=draw)
    volumes = nn.functional.interpolate(coarse, size=(9, 9, 9), mode="trilinear")
    volumes = volumes + 0.1 * torch.randn(volumes.shape, generator=draw)
    monkeypatch.setattr("headstart.numerics.principal.WHOLE", 64)
    sides: list[int] = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: sides.append(len(a)) or eigh(a))
    conv = nn.Conv3d(1, 8, 5, bias=False)
    hs.initialize(conv, volumes, hs.Whitening(scale="whiten", signs=False, eps=0.0))
    assert sides == [24], "never the whole covariance, 125×125"
    patches = every_patch(volumes.numpy(), (5, 5, 5))
    written = unit_rows(conv.weight)
    np.testing.assert_allclose(written @ written.T, np.eye(8), atol=1e-5)
    out = patches @ conv.weight.detach().double().flatten(1).numpy().T
    np.testing.assert_allclose(out.T @ out / len(out), np.eye(8), atol=1e-4)
    vectors = np.linalg.eigh(patches.T @ patches)[1][:, -8:]
    assert ((patches @ written.T) ** 2).sum() > 0.999 * ((patches @ vectors) ** 2).sum(), "as much as any eight hold"


def test_of_very_many_patches_a_sample_is_taken(monkeypatch: pytest.MonkeyPatch, centred: Tensor) -> None:
    exact = conv2d(3, 8)
    hs.initialize(exact, centred, "whitening")
    for limit, numbers in (("PATCHES", 256 * 20), ("ENTRIES", 256 * 20 * 27)):
        monkeypatch.undo()
        monkeypatch.setattr(f"headstart.methods.whitening.{limit}", numbers)
        sampled = conv2d(3, 8)
        hs.initialize(sampled, centred, "whitening")
        assert not torch.equal(sampled.weight, exact.weight)
        overlap = np.linalg.svd(unit_rows(sampled.weight[:4]) @ unit_rows(exact.weight[:4]).T, compute_uv=False)
        assert overlap.min() > 0.95, "nearly the same subspace"


@pytest.mark.parametrize("options", [{"fraction": 0}, {"eps": -1.0}, {"scale": "paper"}, {"scale": -1.0}])
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, object]) -> None:
    with pytest.raises(hs.HeadstartError, match="whitening: "):
        hs.Whitening(**options)  # type: ignore[arg-type]
