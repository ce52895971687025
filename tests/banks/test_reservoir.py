import pytest
import torch

from headstart.banks.reservoir import Reservoir


def fill(weights, parts, seed=0):
    reservoir = Reservoir(weights, torch.Generator().manual_seed(seed))
    for part in parts:
        reservoir.add(part)
    return reservoir


def test_keeps_everything_below_the_bound():
    rows = torch.randn(50, 3, 3)
    reservoir = fill(450, rows.split(7))
    assert torch.equal(reservoir.take(), rows)
    assert reservoir.seen == 50
    assert reservoir.squares == pytest.approx(float(rows.double().square().sum()))


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_the_sample_does_not_depend_on_how_the_stream_is_cut(size):
    rows = torch.arange(1000.0).reshape(1000, 1)
    sample = fill(100, rows.split(size)).take()
    assert torch.equal(sample, fill(100, [rows]).take())
    assert len(sample) == 100
    assert torch.equal(sample, sample.sort(0).values)  # in their order
    assert len(sample.unique()) == 100
    assert not torch.equal(sample, fill(100, [rows], seed=1).take())


def test_the_sample_is_uniform():
    rows = torch.arange(20.0).reshape(20, 1)
    counts = torch.zeros(20)
    for seed in range(2000):
        counts[fill(5, rows.split(3), seed).take().flatten().long()] += 1
    # Each of 20 is drawn with probability 1/4: 500 of 2,000, with a deviation of 19.
    assert (counts - 500).abs().max() < 4.5 * 19.4


def test_memory_is_bounded():
    reservoir = Reservoir(90, torch.Generator())
    for _ in range(100):
        reservoir.add(torch.randn(10, 3, 3))
        assert reservoir._held <= 12 + 10
    assert reservoir.take().shape == (10, 3, 3)
    assert reservoir.seen == 1000


def test_copies_and_converts():
    rows = torch.ones(3, 2, dtype=torch.float64)
    reservoir = fill(100, [rows])
    rows.zero_()
    assert torch.equal(reservoir.take(), torch.ones(3, 2))
    assert reservoir.take().dtype == torch.float32


def test_a_bound_below_one_filter_keeps_one():
    assert fill(4, [torch.randn(10, 3, 3)]).take().shape == (1, 3, 3)
