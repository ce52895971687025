"""Draws in threads: the bits of the streams, in any number of threads, and no more memory than allowed."""

import pytest
import torch

import headstart as hs
from headstart.engine import walk as walking
from headstart.engine.draws_ahead import Draw, DrawsAhead, draw


def wanted(count: int = 12) -> list[Draw]:
    return [Draw(f"layer{i}", "weight", (i + 1, 50), torch.float32) for i in range(count)]


@pytest.mark.parametrize("threads", [1, 4])
def test_values_are_those_of_the_streams_whatever_the_number_of_threads(threads):
    with torch.enable_grad(), DrawsAhead(3, wanted(), threads=threads) as ahead:
        for each in wanted():
            found = ahead.take(each)
            assert torch.equal(found, draw(3, each))
            assert not found.requires_grad
        assert ahead.take(wanted()[0]) is None


def test_no_more_waits_than_allowed_and_a_large_draw_goes_alone():
    draws = wanted()
    with DrawsAhead(0, draws, ahead=1000) as ahead:
        for each in draws:
            assert ahead.waiting <= max(1000, each.size)
            assert ahead.take(each) is not None
        assert ahead.waiting == 0


def test_what_no_layer_takes_is_dropped():
    with DrawsAhead(0, wanted()) as ahead:
        assert ahead.take(wanted()[5]) is not None
        assert ahead.take(wanted()[2]) is None
        assert ahead.take(Draw("layer7", "bias", (8, 50), torch.float32)) is None
        assert ahead.take(wanted()[7]) is not None


@pytest.mark.parametrize("method", ["within-layer", "lsuv", "within-layer:fill=orthonormal"])
def test_a_start_is_the_same_with_draws_ahead(method, monkeypatch):
    def start() -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3, groups=2),
            torch.nn.Flatten(),
            torch.nn.LazyLinear(5),
        )
        net(torch.zeros(1, 3, 8, 8))
        hs.initialize(net, torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)), method)
        return list(net.parameters())

    plain, taken = start(), []
    monkeypatch.setattr(walking, "worth", lambda devices: True)
    take = DrawsAhead.take
    monkeypatch.setattr(DrawsAhead, "take", lambda self, each: taken.append(take(self, each)) or taken[-1])
    ahead = start()
    assert len(taken) >= 3
    assert all(t is not None for t in taken)
    assert all(torch.equal(a, b) for a, b in zip(plain, ahead, strict=True))
