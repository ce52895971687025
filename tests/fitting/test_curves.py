"""Curves over a sample: epoch by epoch, by both kinds of norm, on a copy."""

import copy

import pytest
import torch
from torch import nn

import headstart as hs
from headstart import rng
from headstart.fitting import samples
from headstart.fitting.classify import Classify

X = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 1).long()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def curves():
    return hs.sample_curves(net(), (X[:200], Y[:200]), (X[200:], Y[200:]), fraction=0.2, epochs=4, seed=1)


def test_every_set_is_seen_after_every_epoch_and_before(curves):
    for name in ("sample", "training", "validation"):
        for norm in ("evaluation", "training"):
            assert [p.epoch for p in curves.of(name, norm)] == [0, 1, 2, 3, 4]
    assert curves.size == 40
    assert len(curves.to_dict()["points"]) == 30


def test_the_points_by_hand():
    """What is seen at the end is what a model trained likewise gives."""
    (indices,) = samples.draw(200, (0.2,), "independent", 1)
    fit = Classify(batch_size=8, lr=0.01)
    found = hs.sample_curves(net(), (X[:200], Y[:200]), (X[200:], Y[200:]), fraction=0.2, epochs=2, seed=1, fit=fit)
    data = torch.utils.data.Subset(samples.as_dataset((X[:200], Y[:200])), indices.tolist())
    model = net()
    with rng.untouched(1):
        fit(model, data, 2, seed=1)
    model.eval()
    with torch.no_grad():
        for name, x, y in (("validation", X[200:], Y[200:]), ("sample", X[:200][indices], Y[:200][indices])):
            last = found.of(name)[-1]
            assert last.loss == pytest.approx(float(nn.functional.cross_entropy(model(x), y)), rel=1e-5)
            assert last.accuracy == pytest.approx(100 * float((model(x).argmax(1) == y).float().mean()))


def test_looking_changes_nothing():
    """A model trained while it was looked at is the one that was not, and the user's model stays."""
    model = net().train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    first = hs.sample_curves(model, (X, Y), fraction=0.1, epochs=2, seed=1)
    again = hs.sample_curves(model, (X, Y), fraction=0.1, epochs=2, seed=1)
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_mismatch_of_running_statistics_is_seen_in_one_kind_only():
    """Momentum so small that running statistics never follow, and raw inputs far from zero: the published explosion."""
    model = net()
    model[1].momentum = 1e-4
    curves = hs.sample_curves(model, (100 + 50 * X, Y), fraction=0.3, epochs=6, seed=0)
    running, batch = (curves.of("sample", norm)[-1].loss for norm in ("evaluation", "training"))
    assert running > 5 * batch
    assert batch < curves.of("sample", "training")[0].loss


def test_the_plot_shows_all_curves(curves):
    figure = curves.plot()
    loss, accuracy = figure.axes
    assert len(loss.lines) == 6
    assert len(accuracy.lines) == 7
    assert [t.get_text() for t in accuracy.get_legend().get_texts()] == [
        "the sample (40)", "all training data", "validation", "batch norm by the batch",
    ]  # fmt: skip


def test_without_validation_there_are_two_sets():
    curves = hs.sample_curves(net(), (X, Y), fraction=0.1, epochs=1)
    assert {p.data for p in curves.points} == {"sample", "training"}
    with pytest.raises(hs.HeadstartError, match="no classes"):
        hs.sample_curves(net(), X, fraction=0.1, epochs=1)
