"""Controls: what they keep of a treatment is exact, and what they take away is gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import headstart as hs
from headstart.bench.trials.arms import spec_of
from headstart.engine import registry

from .banks import bank, entry


def pair(channels: int = 3, filters: int = 64, kernel: int = 3) -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    a, b = nn.Conv2d(channels, filters, kernel), nn.Conv2d(channels, filters, kernel)
    b.load_state_dict(a.state_dict())
    return a, b


def norms(weight: Tensor) -> Tensor:
    return weight.detach().flatten(1).norm(dim=1)


def mean_cosine(a: Tensor, b: Tensor) -> float:
    cosine = nn.functional.cosine_similarity(a.detach().flatten(1), b.detach().flatten(1))
    return float(cosine.abs().mean())


TREATMENTS = ["prewarm", "prewarm:paper", "prewarm:fraction=0.25", "whitening", "gabor"]


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_matched_random_has_exactly_the_treatments_norms_and_none_of_its_structure(
    treatment: str, tiles: Tensor
) -> None:
    treated, control = pair()
    before = control.weight.detach().clone()
    hs.initialize(treated, tiles, treatment)
    hs.initialize(control, tiles, hs.MatchedRandom(of=treatment))
    rows = (treated.weight != before).flatten(1).any(1)
    torch.testing.assert_close(norms(control.weight), norms(treated.weight))
    assert torch.equal(control.weight[~rows], before[~rows])
    assert (control.weight != before).flatten(1).any(1).equal(rows)
    # |cosine| of independent directions in 27 dimensions averages sqrt(2 / (27 pi)) = 0.15
    assert mean_cosine(control.weight[rows], treated.weight[rows]) < 0.25
    assert mean_cosine(control.weight[rows], before[rows]) < 0.25


def test_matched_random_directions_are_uniform(tiles: Tensor) -> None:
    _, control = pair(3, 512)
    hs.initialize(control, tiles, hs.MatchedRandom(of="whitening:scale=1"))
    unit = nn.functional.normalize(control.weight.detach().flatten(1)[:54])  # as many as whitening writes
    second = unit.T @ unit * (27 / len(unit))
    assert float((second - torch.eye(27)).abs().mean()) < 0.2
    assert float(unit.sum(0).norm()) < 3 * np.sqrt(len(unit))


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_zero_dc_random_is_the_layers_own_filters_less_their_mean(treatment: str, tiles: Tensor) -> None:
    treated, control = pair()
    before = control.weight.detach().clone()
    hs.initialize(treated, tiles, treatment)
    hs.initialize(control, tiles, hs.ZeroDCRandom(of=treatment))
    rows = (treated.weight != before).flatten(1).any(1)
    assert torch.equal(control.weight[~rows], before[~rows])
    for own, written in zip(before[rows].numpy(), control.weight[rows].detach().numpy(), strict=True):
        centred = own - own.mean()
        np.testing.assert_allclose(written, centred * np.linalg.norm(own) / np.linalg.norm(centred), atol=1e-6)
        assert abs(written.sum()) < 1e-5


def test_zero_dc_random_keeps_a_filter_that_is_nothing_but_mean(tiles: Tensor) -> None:
    _, control = pair()
    with torch.no_grad():
        control.weight[1] = 0.3
    report = hs.initialize(control, tiles, "zero-dc-random")
    assert torch.equal(control.weight[1], torch.full((3, 3, 3), 0.3))
    assert "1 filters are constant and were kept" in report.row("").notes


def test_bias_and_later_layers_stay(tiles: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for method in ("matched-random", "zero-dc-random"):
        hs.initialize(model, tiles, method)
        changed = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
        assert changed == ["0.weight"]


def test_controls_serve_fills_of_all_layers_too(tiles: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5))
    hs.initialize(model, tiles, "matched-random:of=kaiming")
    assert model[0].weight.std().item() == pytest.approx((2 / 27) ** 0.5, rel=0.15)
    untouched = model[3].weight.detach().clone()
    hs.initialize(model, tiles, "matched-random:of=dirac")  # leaves linear layers alone
    assert torch.equal(model[3].weight, untouched)


def test_controls_of_a_method_for_many_convolutions_write_each_that_it_writes(tiles: Tensor, tmp_path: Path) -> None:
    bank(entry(clusters=4), entry(depth=1.0)).save(tmp_path / "a+b, c.safetensors")
    treatment = hs.FilterClusters(tmp_path / "a+b, c.safetensors", layers=2)
    models = []
    for method in (treatment, hs.MatchedRandom(of=spec_of(treatment)), hs.ZeroDCRandom(of=spec_of(treatment)), None):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 4, 3)]
        models.append(nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)))
        models[-1](tiles[:1])
        if method is not None:
            assert hs.initialize(models[-1], None, method).changed == ["0", "2"]
    treated, matched, centred, plain = models
    for layer in (0, 2):
        torch.testing.assert_close(norms(matched[layer].weight), norms(treated[layer].weight))
        assert mean_cosine(matched[layer].weight, treated[layer].weight) < 0.25
        torch.testing.assert_close(norms(centred[layer].weight), norms(plain[layer].weight))
        assert centred[layer].weight.sum((1, 2, 3)).abs().max() < 1e-5
        assert torch.equal(matched[layer].bias, plain[layer].bias)
    for layer in (1, 3, 5):
        for model in models:
            assert torch.equal(model[layer].weight, plain[layer].weight)


def test_a_control_needs_what_its_treatment_needs() -> None:
    for of in ("gabor", "prewarm", "kaiming"):
        treated, control = registry.get(of).info, hs.MatchedRandom(of=of).info
        assert (control.needs_data, control.scope) == (treated.needs_data, treated.scope)
        assert control.name == "matched-random"
    conv = nn.Conv2d(3, 8, 7)
    assert hs.initialize(conv, method="matched-random:of=gabor").changed == [""]
    with pytest.raises(hs.HeadstartError, match="works from data and got none"):
        hs.initialize(conv, method="matched-random:of=prewarm")


def test_a_control_is_named_by_what_its_treatments_files_hold(tmp_path: Path) -> None:
    assert hs.MatchedRandom(of="gabor").identity() == "MatchedRandom(of='gabor')"
    made = bank(entry())
    made.save(tmp_path / "a.safetensors")
    made.save(tmp_path / "b.safetensors")
    a, b = (hs.MatchedRandom(of=f"filter-clusters:bank={tmp_path}/{name}.safetensors") for name in "ab")
    assert a.identity() == b.identity()
    assert made.fingerprint in a.identity()
    bank(entry(seed=1)).save(tmp_path / "b.safetensors")
    assert a.identity() != b.identity()


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        ("within-layer", "rescales the weights that it fills"),
        ("lsuv", "rescales the weights that it fills"),
        ("auto", "rescales the weights that it fills"),
        ("prewarm+gabor", "not one plain method"),
        ("matched-random", "not one plain method"),
    ],
)
@pytest.mark.parametrize("control", [hs.MatchedRandom, hs.ZeroDCRandom])
def test_what_a_control_cannot_serve_is_refused_at_once(control: type, of: str, reason: str) -> None:
    with pytest.raises(hs.HeadstartError, match=reason):
        control(of=of)
