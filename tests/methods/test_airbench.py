"""Airbench against numpy: eigenvectors in front, torch's dirac behind."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import headstart as hs


def network() -> nn.Sequential:
    """The shape of airbench's: a 2×2 stem, a narrow and a wide convolution, each behind a norm, and a head."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 24, 2), nn.GELU()),
        *(nn.Conv2d(24, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.GELU()),
        *(nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.Conv2d(64, 32, 1), nn.ConvTranspose2d(32, 16, 3)),
        *(nn.Conv2d(16, 8, 3), nn.Flatten(), nn.LazyLinear(10)),
    )


def test_the_stem_is_whitening_and_the_rest_is_partly_dirac(tiles: Tensor) -> None:
    net = network()
    net(tiles[:1])
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    report = hs.initialize(net, tiles, "airbench:paper", seed=0)
    assert report.changed == ["0", "2", "8"]

    patches = tiles.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).double().numpy()
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    whitened = vectors / np.sqrt(values + 5e-4)
    stem = net[0].weight.detach().double().flatten(1).numpy()
    found = np.abs(stem[:12] @ np.linalg.pinv(whitened).T)  # each filter is one scaled eigenvector, up to its sign
    assert np.allclose(np.sort(found.max(1)), 1, atol=5e-2)
    assert np.allclose(np.sort(found.sum(1)), 1, atol=8e-2)
    assert np.array_equal(stem[:12], -stem[12:])

    expected = before["2.weight"].clone()
    nn.init.dirac_(expected[:24])
    assert torch.equal(net[2].weight, expected)
    wanted = torch.zeros(8, 16, 3, 3)  # fewer filters than inputs: the first eight pass
    assert torch.equal(net[8].weight, nn.init.dirac_(wanted))
    for name in ("5.weight", "6.weight", "7.weight", "10.weight"):
        assert torch.equal(net.get_parameter(name), before[name])


def test_at_the_layers_own_size_it_is_whitening_then_dirac(tiles: Tensor) -> None:
    one, other = network(), network()
    one(tiles[:1])
    other(tiles[:1])
    other.load_state_dict(one.state_dict())
    hs.initialize(one, tiles, "airbench", seed=3)
    hs.initialize(other, tiles, "whitening", seed=3, include="0")
    assert torch.equal(one[0].weight, other[0].weight)


def test_without_the_first_convolution_nothing_else_is_whitened(tiles: Tensor) -> None:
    net = network()
    report = hs.initialize(net, tiles, "airbench", exclude="0")
    assert report.changed == ["2", "8"]
    assert torch.equal(net[2].weight[:24], nn.init.dirac_(torch.empty(24, 24, 3, 3)))
    assert any("nothing is whitened" in f for f in report.findings)


def test_its_control_has_the_same_norms(tiles: Tensor) -> None:
    one, other = network(), network()
    one(tiles[:1])
    other(tiles[:1])
    other.load_state_dict(one.state_dict())
    hs.initialize(one, tiles, "airbench")
    report = hs.initialize(other, tiles, "matched-random:of=airbench")
    assert report.changed == ["0", "2", "8"]
    for place in (0, 2, 8):
        norms = [net[place].weight.flatten(1).norm(dim=1) for net in (one, other)]
        assert torch.allclose(*norms, rtol=1e-4)
        assert not torch.equal(one[place].weight, other[place].weight)
