"""Controls: what they keep of a treatment is exact, and what they take away is gone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import headstart as hs


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


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        ("within-layer", "rescales what it filled"),
        ("lsuv", "rescales what it filled"),
        ("auto", "rescales what it filled"),
        ("prewarm+gabor", "not one plain method"),
        ("matched-random", "not one plain method"),
    ],
)
@pytest.mark.parametrize("control", [hs.MatchedRandom, hs.ZeroDCRandom])
def test_what_a_control_cannot_serve_is_refused_at_once(control: type, of: str, reason: str) -> None:
    with pytest.raises(hs.HeadstartError, match=reason):
        control(of=of)
