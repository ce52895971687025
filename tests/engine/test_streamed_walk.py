"""Several batches: the statistics are those of all samples together, whatever the batches and their order."""

import copy

import pytest
import torch
from torch import nn

import headstart as hs
from headstart.engine import streamed_walk
from headstart.model import inputs
from headstart.numerics.moments import channel_moments, pooled

X = torch.randn(70, 3, 10, 10, generator=torch.Generator().manual_seed(2)) * torch.linspace(0.5, 3, 70).view(
    -1, 1, 1, 1
)


class Net(nn.Module):
    """Convolutions with and without fresh batch norms, a residual sum, in-place activations, dropout, a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.drop, self.last = nn.Dropout(0.5), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 25, 5)

    def forward(self, x):
        x = torch.relu_(self.norm(self.stem(x)))
        x = x + torch.relu_(self.b(torch.relu_(self.a(x))))
        x = self.last(nn.functional.max_pool2d(x, 2))
        return self.head(self.drop(x).flatten(1))


# Without center=false the filters of bias-free layers would lose the mean patch of the first batch, not of all.
METHODS = ["within-layer:center=false", "within-layer:paper", "lsuv", "within-layer:fill=keep"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [2, 32, 69])
def test_batches_give_what_one_batch_gives(method, batch_size):
    view, parts = Net(), Net()
    one = hs.initialize(view, X, method)
    several = hs.initialize(parts, X, method, batch_size=batch_size)
    for (name, a), (_, b) in zip(view.state_dict().items(), parts.state_dict().items(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5), name
    assert one.changed == several.changed
    assert any(f"70 samples, {batch_size} at a time" in finding for finding in several.findings)


def test_every_channel_is_normalized_over_all_samples():
    net = Net()
    hs.initialize(net, X, "within-layer:beta=0.2,before_norm=normalize", batch_size=16)
    seen = {}
    for name in ("stem", "a", "head"):
        net.get_submodule(name).register_forward_hook(lambda m, i, out, n=name: seen.update({n: out.clone()}))
    net.eval()
    net.norm.train()
    net.last.train()
    with torch.no_grad():
        net(X)
    for out in seen.values():
        flat = out.movedim(1, 0).flatten(1)
        assert torch.allclose(flat.std(1, correction=0), torch.ones(len(flat)), atol=1e-3)
        assert torch.allclose(flat.mean(1), torch.full((len(flat),), 0.2), atol=1e-3)


def test_the_order_of_the_batches_does_not_matter():
    # Batches of 10, in another order; the first stays, since fills are made from it.
    order = torch.cat([torch.arange(10), *(torch.arange(10, 70).view(6, 10)[torch.tensor([4, 0, 5, 2, 1, 3])])])
    nets = Net(), Net()
    for net, data in zip(nets, (X, X[order]), strict=True):
        hs.initialize(net, data, "within-layer:fill=pca", batch_size=10)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_pooled_moments_are_those_of_the_whole():
    values = torch.randn(100, 6, 4) * 3 + 100
    view = channel_moments(values, 1)
    parts = [channel_moments(part, 1) for part in values.split([1, 60, 39])]
    for these in (parts, parts[::-1]):
        both = pooled(these)
        assert both.count == view.count == 400
        assert torch.allclose(both.mean, view.mean, rtol=1e-6)
        assert torch.allclose(both.var, view.var, rtol=1e-4)


def test_no_forward_sees_more_than_the_batch_size(monkeypatch):
    seen = []
    net = Net()
    net.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    hs.initialize(net, X, "within-layer", batch_size=8)
    assert max(seen) == 8
    # One pass over all parts for each layer and norm that needs one, a pass of two samples for order and plan.
    assert len(seen) <= 2 + 9 * 6
    loaded = inputs.load(X, net, seed=0)
    assert [part.size for part in loaded.parts(32)] == [32, 32, 6]


def test_the_model_is_restored_when_a_later_batch_fails():
    class Picky(Net):
        def forward(self, x):
            if len(x) == 6:
                raise ValueError("six")
            return super().forward(x)

    net = Picky()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(hs.ModelError, match="six"):
        hs.initialize(net, X, "within-layer", batch_size=32)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_balance_and_fills_follow():
    net = Net()
    report = hs.initialize(net, X, hs.KrahenbuhlKMeans(), batch_size=32)
    assert set(report.changed) >= {"stem", "a", "b", "head"}
    assert any("balance: the rates" in finding for finding in report.findings)


@pytest.mark.parametrize("batch_size", [0, 1, -3, 2.5, "8"])
def test_what_is_no_batch_is_named(batch_size):
    with pytest.raises(hs.DataError, match="batch_size="):
        hs.initialize(Net(), X, "within-layer", batch_size=batch_size)


def test_a_batch_that_holds_all_takes_the_usual_single_pass(monkeypatch):
    monkeypatch.setattr(streamed_walk, "stream", None)
    assert hs.initialize(Net(), X, "within-layer", batch_size=70).changed
