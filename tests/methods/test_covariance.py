"""Covariances: what is drawn has the covariance that was wanted, and the wanted one is what its definition says."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import headstart as hs
from headstart.banks import Entry
from headstart.methods.shared.slice_covariance import covariance_of, factor_of, measure, structured
from headstart.methods.shared.spatial import resizing

from .banks import bank, entry

CONSTANTS = {"s0": 2.0, "v": 1.0, "a": 0.5}


def slices(weight: Tensor, dims: int = 2) -> np.ndarray:
    return weight.detach().double().flatten(-dims).flatten(0, -2).numpy()


def rms(weight: Tensor) -> float:
    return float(weight.detach().double().square().mean().sqrt())


def trained(seed: int = 0, channels: int = 40) -> nn.Sequential:
    """A model whose 3×3 slices have a covariance and a mean of their own."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Conv2d(channels, channels, 3))
    mix = torch.randn(9, 9)
    with torch.no_grad():
        for conv in (model[0], model[2]):
            conv.weight.copy_((torch.randn(*conv.weight.shape[:2], 9) @ mix + 0.5).reshape(conv.weight.shape))
    return model


def require_covariance(found: np.ndarray, wanted: np.ndarray) -> None:
    """Within five standard errors of a sample covariance of Gaussian draws, entry by entry."""
    sample = found.T @ found / len(found)
    variances = np.diag(wanted)
    error = np.sqrt((wanted**2 + np.outer(variances, variances)) / len(found))
    assert (np.abs(sample - wanted) <= 5 * error + 1e-12).all()
    assert (np.abs(found.mean(0)) <= 5 * np.sqrt(variances / len(found)) + 1e-12).all()


def test_what_is_drawn_has_the_covariance_of_the_trained_slices() -> None:
    source = trained()
    target = nn.Sequential(nn.Conv2d(64, 256, 3), nn.ReLU(), nn.Conv2d(256, 128, 3))
    method = hs.CovarianceTransfer.from_models(source, scale="paper")
    report = hs.initialize(target, method=method, seed=1)
    for layer in (0, 2):
        wanted = np.cov(slices(source[layer].weight), rowvar=False, bias=True)
        require_covariance(slices(target[layer].weight), wanted)
    assert report.row("2").notes[0] == "3×3 slices, depth 1, covariance of 1,720 slices"


def test_slices_are_independent() -> None:
    conv = nn.Conv2d(128, 128, 3)
    hs.initialize(conv, method=hs.CovarianceTransfer(bank(entry(clusters=9))), seed=1)
    found = slices(conv.weight)
    between = found[:-1:2].T @ found[1::2] / (len(found) // 2)
    assert np.abs(between).max() < 5 * found.var(0).max() / math.sqrt(len(found) // 2)


def test_models_are_pooled_by_the_names_of_their_layers() -> None:
    models = [trained(seed) for seed in range(3)]
    made = measure(models)
    for place, layer in enumerate((0, 2)):
        every = np.concatenate([slices(m[layer].weight) for m in models])
        measured = made.entries[place]
        np.testing.assert_allclose(
            covariance_of(measured), np.cov(every, rowvar=False, bias=True), rtol=1e-6, atol=1e-9
        )
        assert measured.norm == pytest.approx(math.sqrt((every**2).mean()))
        np.testing.assert_allclose(measured.centroids.flatten(), every.mean(0), rtol=1e-4)
        np.testing.assert_allclose(measured.deviations.flatten(), every.std(0), rtol=1e-4)
        assert (measured.layer, measured.depth, measured.sizes.tolist()) == (str(layer), place, [len(every)])


def test_models_modules_states_and_files_are_the_same(tmp_path: Path) -> None:
    model = trained()
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    prints = {measure(source).fingerprint for source in (model, model.state_dict(), [model], path)}
    assert len(prints) == 1
    assert measure(trained(1)).fingerprint not in prints
    turned = trained()
    with torch.no_grad():
        turned[2].weight[:, :, 0, 0] *= -1  # the same variances, other covariances
        turned[2].weight[:, :, 0, 0] += 2 * model[2].weight[:, :, 0, 0].mean()
    assert measure(turned).fingerprint not in prints


def test_clusters_give_their_covariance_and_the_variances_within() -> None:
    made = entry(clusters=4, deviation=0.3)
    centroids, sizes = made.centroids.flatten(1).double().numpy(), made.sizes.numpy()
    wanted = np.cov(centroids, rowvar=False, bias=True, fweights=sizes)
    wanted += np.diag(np.average(made.deviations.flatten(1).double().numpy() ** 2, axis=0, weights=sizes))
    np.testing.assert_allclose(covariance_of(made), wanted, atol=1e-12)
    conv = nn.Conv2d(200, 200, 3)
    hs.initialize(conv, method=hs.CovarianceTransfer(bank(made), scale="paper"), seed=1)
    require_covariance(slices(conv.weight), wanted)


def test_as_many_clusters_as_slices_are_exact() -> None:
    weight = trained(channels=6)[2].weight.detach().flatten(0, 1)
    made = Entry((3, 3), 0.0, False, "", weight, torch.zeros_like(weight), torch.ones(36).long(), 0.0, 1.0)
    np.testing.assert_allclose(covariance_of(made), np.cov(slices(weight), rowvar=False, bias=True), atol=1e-9)


def test_more_clusters_come_nearer_to_the_covariance() -> None:
    source = trained()
    wanted = covariance_of(measure(source).entries[1])
    errors = []
    for clusters in (1, 4, 40, 400):
        found = covariance_of(hs.FilterBank.from_models(source, clusters=clusters).find((3, 3), 1.0, layer="2"))
        torch.testing.assert_close(found.diagonal(), wanted.diagonal(), rtol=1e-3, atol=0)
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[0] > 1.3 * errors[1] > 1.3**2 * errors[2] > 1.3**3 * errors[3]


def test_the_identity_makes_a_gaussian_start() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3)
    own = rms(conv.weight)
    flat = torch.zeros(1, 3, 3)
    made = Entry((3, 3), 0.0, False, "", flat, torch.ones(1, 3, 3), torch.tensor([9]), 9.0, 1.0)
    hs.initialize(conv, method=hs.CovarianceTransfer(bank(made)), seed=3)
    require_covariance(slices(conv.weight), own**2 * np.eye(9))
    plain = nn.Conv2d(64, 64, 3)
    hs.initialize(plain, method="lecun", seed=3)
    factor = own / rms(plain.weight)
    torch.testing.assert_close(conv.weight, plain.weight * factor, msg="other values than the Gaussian's own")


@pytest.mark.parametrize("scale", ["match", "source", 0.3])
def test_the_size_is_what_was_asked_for(scale: float | str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3)
    wanted = {"match": rms(conv.weight), "source": 0.07, 0.3: 0.3}[scale]
    hs.initialize(conv, method=hs.CovarianceTransfer(bank(entry(norm=0.07)), scale=scale))
    assert rms(conv.weight) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kernel", [(5, 5), (7, 4), (2, 2)])
def test_other_kernels_get_the_interpolated_covariance(kernel: tuple[int, ...]) -> None:
    source = trained()
    conv = nn.Conv2d(128, 256, kernel)
    method = hs.CovarianceTransfer.from_models(source, scale="paper")
    hs.initialize(conv, method=method, seed=1)
    covariance = torch.from_numpy(np.cov(slices(source[0].weight), rowvar=False, bias=True))
    matrix = resizing((3, 3), kernel)
    wanted = matrix @ covariance @ matrix.T
    assert torch.linalg.eigvalsh(wanted).min() > -1e-9
    require_covariance(slices(conv.weight), wanted.numpy())
    with pytest.raises(hs.HeadstartError, match="3×3 slices"):
        hs.initialize(conv, method=hs.CovarianceTransfer.from_models(source, resize=False))


def test_depthwise_layers_only_on_request() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=8))
    made = bank(entry(clusters=9), entry(clusters=9, depthwise=True))
    assert hs.initialize(model, method=hs.CovarianceTransfer(made)).changed == ["0", "1", "2"]
    report = hs.initialize(model, method=hs.CovarianceTransfer(made, depthwise=True, layers=1))
    assert report.changed == ["1"]
    assert report.row("0").notes == ["not depthwise"]
    assert report.row("2").notes == ["not among the first 1 convolutions"]
    with pytest.raises(hs.HeadstartError, match=r"depthwise convolutions.*depthwise=False"):
        hs.initialize(nn.Conv2d(4, 8, 3), method=hs.CovarianceTransfer(made, depthwise=True))


def test_covariances_are_not_lost_in_a_file(tmp_path: Path) -> None:
    with pytest.raises(hs.HeadstartError, match="no file format"):
        measure(trained()).save(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_factor_gives_back_a_positive_matrix_and_the_nearest_of_another() -> None:
    torch.manual_seed(0)
    root = torch.randn(9, 4, dtype=torch.float64)
    torch.testing.assert_close(factor_of(root @ root.T) @ factor_of(root @ root.T).T, root @ root.T)
    turned = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    mixed = turned @ torch.diag(torch.tensor([2.0, 1.0, -1.0], dtype=torch.float64)) @ turned.T
    nearest = turned @ torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)) @ turned.T
    torch.testing.assert_close(factor_of(mixed) @ factor_of(mixed).T, nearest)


def by_hand(kernel: tuple[int, ...], s: float) -> np.ndarray:
    """The construction, one tap after the other, with the shifted window as an array that is moved."""
    window = np.zeros(kernel)
    for tap in np.ndindex(*kernel):
        window[tap] = math.exp(-sum((t - (k - 1) / 2) ** 2 for t, k in zip(tap, kernel, strict=True)) / (2 * s))
    taps = list(np.ndindex(*kernel))
    found = np.zeros((len(taps), len(taps)))
    for row, centre in enumerate(taps):
        block = np.zeros(kernel)
        for tap in taps:
            old = tuple(t - c + (k - 1) // 2 for t, c, k in zip(tap, centre, kernel, strict=True))
            if all(0 <= o < k for o, k in zip(old, kernel, strict=True)):
                block[tap] = window[old]
        found[row] = (window[centre] * (block - window / 2)).ravel()
    return (found + found.T) / 2


@pytest.mark.parametrize(("kernel", "s"), [((3, 3), 0.7), ((7, 7), 2.0), ((5, 9), 4.0), ((5,), 1.0), ((3, 3, 3), 1.0)])
def test_the_constructed_covariance_is_its_formula(kernel: tuple[int, ...], s: float) -> None:
    np.testing.assert_allclose(structured(kernel, s), by_hand(kernel, s), atol=1e-14)


@given(
    kernel=st.lists(st.integers(1, 6), min_size=1, max_size=2).filter(lambda k: math.prod(k) > 1),
    s=st.floats(0.05, 50),
)
def test_constructed_covariances_are_symmetric_and_have_a_positive_factor(kernel: list[int], s: float) -> None:
    matrix = structured(kernel, s)
    assert torch.equal(matrix, matrix.T)
    assert torch.isfinite(matrix).all()
    # Turning the kernel by half a turn changes nothing: the window has no direction.
    torch.testing.assert_close(matrix, matrix.flip(0, 1))
    factor = factor_of(matrix)
    positive = factor @ factor.T
    values = torch.linalg.eigvalsh(matrix)
    assert float((positive - matrix).norm()) == pytest.approx(float(values.clamp_max(0).norm()), abs=1e-9)
    assert float(positive.trace()) > 0


def test_filters_of_the_constructed_covariance_have_it_and_widen_with_depth() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6000, 7),
        nn.Conv2d(6000, 6000, 7, groups=6000),
        nn.Conv2d(6000, 6000, 7, groups=6000),
        nn.Conv2d(6000, 6000, 7, groups=6000),
    )
    method = hs.StructuredCovariance(**CONSTANTS, scale="paper")
    report = hs.initialize(model, method=method, seed=2)
    assert report.changed == ["1", "2", "3"]
    assert report.row("0").notes == ["not depthwise"]
    for layer, depth in ((1, 0.0), (2, 0.5), (3, 1.0)):
        s = 2.0 + 1.0 * depth + 0.5 * depth**2 / 2
        assert report.row(str(layer)).notes == [f"window of variance {s:.3g}"]
        factor = factor_of(structured((7, 7), s))
        require_covariance(slices(model[layer].weight), (factor @ factor.T).numpy())


def test_the_constructed_covariance_matches_the_norm_and_serves_dense_layers_on_request() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 7)
    own = rms(conv.weight)
    with pytest.raises(hs.HeadstartError, match=r"depthwise convolutions.*depthwise=False"):
        hs.initialize(conv, method=hs.StructuredCovariance(**CONSTANTS))
    report = hs.initialize(conv, method="structured-covariance:s0=2,v=1,a=0.5,depthwise=false")
    assert rms(conv.weight) == pytest.approx(own, rel=1e-5)
    assert not any("hardly show the structure" in f for f in report.findings)
    report = hs.initialize(nn.Conv2d(4, 8, 3), method=hs.StructuredCovariance(**CONSTANTS, depthwise=False))
    assert any("hardly show the structure" in f for f in report.findings)


def test_constants_have_to_be_given() -> None:
    for given_ in product((1.0, None), repeat=3):
        constants = dict(zip(("s0", "v", "a"), given_, strict=True))
        if None in given_:
            with pytest.raises(hs.HeadstartError, match=r"structured-covariance: (s0|v|a)=None.*no default"):
                hs.StructuredCovariance(**constants)
    with pytest.raises(hs.HeadstartError, match=r"s0=None.*no default"):
        hs.initialize(nn.Conv2d(4, 4, 7, groups=4), method="structured-covariance")


def test_a_window_without_width_is_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 7, groups=4), nn.Conv2d(4, 4, 7, groups=4))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(hs.HeadstartError, match=r"layer '1'.*depth 1 has a variance of -1"):
        hs.initialize(model, method=hs.StructuredCovariance(s0=1, v=-2, a=0))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (hs.CovarianceTransfer, {"bank": ()}),
        (hs.CovarianceTransfer, {"scale": "raw"}),
        (hs.CovarianceTransfer, {"layers": 0}),
        (hs.StructuredCovariance, {**CONSTANTS, "scale": "source"}),
        (hs.StructuredCovariance, {**CONSTANTS, "layers": True}),
        (hs.StructuredCovariance, {**CONSTANTS, "v": math.inf}),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(method: type[hs.Method], options: dict[str, object]) -> None:
    with pytest.raises(hs.HeadstartError, match=f"{method.info.name}: "):
        method(**options)
