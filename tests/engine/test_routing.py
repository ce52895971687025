"""What runs is learned from the whole batch where it depends on the data, and forwards may take gradients."""

import pytest
import torch
from torch import nn

import headstart as hs


class Experts(nn.Module):
    """A router that sends every token to one of four experts."""

    def __init__(self):
        super().__init__()
        self.g, self.e = nn.Linear(8, 4), nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        chosen, y = self.g(x).argmax(1), torch.zeros_like(x)
        for i, expert in enumerate(self.e):
            mine = (chosen == i).nonzero()[:, 0]
            if len(mine):
                y[mine] = expert(x[mine])
        return y


X = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))


def outputs(net, x):
    """Deviation of every expert's output over the tokens that it gets."""
    with torch.no_grad():
        chosen = net.g(x).argmax(1)
        own = [x[chosen == i] for i in range(4)]
        return [float(e(mine).std(correction=0)) if len(mine) else None for e, mine in zip(net.e, own, strict=True)]


def experts(seed=0):
    torch.manual_seed(seed)
    net = Experts()
    with torch.no_grad():  # by the signs and sizes of the first two features
        net.g.weight.zero_()
        net.g.bias.zero_()
        net.g.weight.normal_(0, 0.01)
        net.g.weight[:, :2] = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    return net


@pytest.mark.parametrize("options", [{}, {"batch_size": 64}])
def test_experts_that_two_samples_do_not_reach_are_initialized(options):
    x = X[X[:, 0].argsort()]
    net = experts()
    report = hs.initialize(net, x, "lsuv:fill=keep", exclude="g", **options)
    reached = {f"e.{i}" for i in net.g(x).argmax(1).unique().tolist()}
    assert len(reached) == 4
    assert set(report.changed) == reached
    for row, std in zip([report.row(f"e.{i}") for i in range(4)], outputs(net, x), strict=True):
        assert row.output_std == pytest.approx(std, rel=1e-4)
        assert std == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("method", ["within-layer", "lsuv", "auto"])
def test_a_router_that_is_written_sends_data_elsewhere(method):
    for seed in range(3):
        net = experts(seed)
        report = hs.initialize(net, X, method, seed=seed)
        called = net.g(X).argmax(1).bincount(minlength=4)
        for i, n in enumerate(called.tolist()):
            row = report.row(f"e.{i}")
            if row.action in ("written", "scaled"):
                assert n >= 8
                assert row.output_std == pytest.approx(outputs(net, X)[i], rel=1e-3)
            elif n >= 8 and method != "auto":
                assert f"e.{i}" in report.findings[0]
                assert report.findings[0].startswith("Called only now")


def test_an_expert_that_gets_next_to_nothing_is_left():
    net = experts()
    x = X.index_fill(1, torch.tensor([0]), -1.0).index_fill(1, torch.tensor([1]), 0.0)
    x[:3, 1] = 5
    report = hs.initialize(net, x, "lsuv:fill=keep", exclude="g")
    assert report.changed == ["e.1"]
    assert report.row("e.2").notes == ["too little of the batch reaches it: its statistics need 8 values"]


def test_the_diagnosis_sees_them_too():
    x = X[X[:, 0].argsort()]
    rows = hs.diagnose(experts(), x[::4]).rows
    assert [r.output_std is not None for r in rows] == ["never called" not in r.notes for r in rows]
    assert sum(r.output_std is not None for r in rows) >= 3


class Force(nn.Module):
    """The gradient of an energy with respect to its input."""

    def __init__(self, create_graph=False, own=False, wrap=lambda m: m):
        super().__init__()
        self.a, self.b = wrap(nn.Linear(3, 16)), wrap(nn.Linear(16, 1))
        self.head = wrap(nn.Linear(3, 4))
        self.create_graph, self.own = create_graph, own

    def forward(self, p):
        with torch.set_grad_enabled(self.own or torch.is_grad_enabled()):
            if not p.requires_grad:
                p.requires_grad_()
            energy = self.b(self.a(p).tanh())
            force = torch.autograd.grad(energy.sum(), p, create_graph=self.create_graph)[0]
        return self.head(force)


P = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
FORCES = {
    "plain": {},
    "with a graph": {"create_graph": True},
    "switches gradients on": {"own": True},
    "parametrized": {"wrap": nn.utils.parametrizations.weight_norm},
}


@pytest.mark.parametrize("name", FORCES)
@pytest.mark.parametrize("method", ["within-layer", "lsuv"])
def test_forwards_that_take_gradients(name, method):
    net = Force(**FORCES[name])
    report = hs.initialize(net, P, method)
    assert report.changed == ["a", "b", "head"]
    seen = {}
    for layer in ("a", "b", "head"):
        net.get_submodule(layer).register_forward_hook(lambda m, a, y, layer=layer: seen.update({layer: y.detach()}))
    net(P.clone())
    for layer, y in seen.items():
        assert report.row(layer).output_std == pytest.approx(float(y.std(correction=0)), rel=1e-3), layer
        assert float(y.std(correction=0)) == pytest.approx(1, rel=0.05)
    assert not P.requires_grad


def test_forces_with_batches_lazy_layers_and_the_diagnosis():
    net = Force()
    assert hs.initialize(net, P, "within-layer", batch_size=16).row("head").output_std == pytest.approx(1, rel=1e-3)
    assert hs.diagnose(net, P).row("head").output_std == pytest.approx(1, rel=0.05)
    net.head = nn.LazyLinear(4)
    assert hs.initialize(net, P, "lsuv").changed == ["a", "b", "head"]
    with torch.no_grad():
        assert hs.compute(net, P, "auto").report is not None


def test_a_forward_that_fails_for_another_reason_says_so():
    class Wrong(nn.Linear):
        def forward(self, x):
            return torch.autograd.grad(super().forward(x).sum().detach(), x)

    with pytest.raises(hs.ModelError, match="does not require grad"):
        hs.initialize(Wrong(3, 2), P, "lsuv")
