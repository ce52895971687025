"""Calibration: scales are evened out, and what the network computes stays."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import headstart as hs

X = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(5))


class Trained(nn.Module):
    """Convolutions, trained batch norm, a residual sum of channels, a concatenation and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 8, 1), nn.Conv2d(16, 6, 3, groups=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.b(F.relu(self.a(x))))
        y = F.relu(self.c(y)) + y
        return self.head(F.relu(self.d(torch.cat([y, x], 1))).mean((2, 3)))


@pytest.fixture
def uneven():
    """As it may come from elsewhere: the function of a trained net at uneven scales."""
    net = Trained()
    with torch.no_grad():
        for _ in range(40):
            net.train()(X)
        factors = torch.logspace(-1, 2, 8)
        net.a.weight *= factors[:, None, None, None]
        net.a.bias *= factors
        net.b.weight /= factors[None, :, None, None]
        net.stem.weight *= factors[:, None, None, None]
        net.norm.running_mean *= factors
        net.norm.running_var.add_(net.norm.eps).mul_(factors**2).sub_(net.norm.eps)
    return net.eval()


def deviations(net, name):
    found = []
    handle = net.get_submodule(name).register_forward_hook(lambda m, a, out: found.append(out.std((0, 2, 3))))
    with torch.no_grad():
        net(X)
    handle.remove()
    return found[0]


def spread(values):
    return float(values.max() / values.min())


def test_channels_even_out_and_the_function_stays(uneven):
    expected = uneven(X)
    assert min(spread(deviations(uneven, name)) for name in ("stem", "a")) > 50
    report = hs.calibrate(uneven, X)
    assert (uneven(X) - expected).abs().max() <= 1e-4 * expected.abs().max()
    for name in ("stem", "a", "d"):
        assert spread(deviations(uneven, name)) < 1.001, name
    assert report.statistics == ["norm"]
    assert "spread up to" in " ".join(report.findings)


def test_channels_that_are_added_share_one_factor(uneven):
    before = {name: deviations(uneven, name) for name in ("b", "c")}
    hs.calibrate(uneven, X, balance=False)
    ratios = [deviations(uneven, name) / before[name] for name in ("b", "c")]
    assert torch.allclose(*ratios, rtol=1e-3)


def test_uneven_scales_come_to_the_same_weights(uneven):
    plain = Trained()
    with torch.no_grad():
        for _ in range(40):
            plain.train()(X)
    plain.eval()
    for net in (plain, uneven):
        hs.calibrate(net, X)
    for (name, mine), (_, its) in zip(plain.named_parameters(), uneven.named_parameters(), strict=True):
        assert torch.allclose(mine, its, rtol=1e-2, atol=1e-5), name


def test_rates_come_together(uneven):
    def rates():
        # What c makes is added to what it gets: its scale is not free.
        return [row.gradient_ratio for row in hs.diagnose(uneven, X).rows if row.name in ("a", "b", "d", "head")]

    before = rates()
    hs.calibrate(uneven, X)
    assert max(rates()) / min(rates()) < 4 < 8 < max(before) / min(before)


def test_a_dead_channel_stays(uneven):
    with torch.no_grad():
        uneven.a.weight[3] = 0
        uneven.a.bias[3] = 0
    expected = uneven(X)
    hs.calibrate(uneven, X)
    assert torch.isfinite(uneven.a.weight).all()
    assert not uneven.a.weight[3].any()
    assert (uneven(X) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_smooth_activation_is_left_alone():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)), torch.randn(64, 8)
    before = copy.deepcopy(net.state_dict())
    report = hs.calibrate(net, x)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert report.changed == []


def test_excluded_layers_stay(uneven):
    kept = uneven.b.weight.detach().clone()
    expected = uneven(X)
    hs.calibrate(uneven, X, exclude="b")
    assert torch.equal(uneven.b.weight, kept)
    assert (uneven(X) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8), nn.LayerNorm([8, 10, 10])])
@pytest.mark.parametrize("scale", [0.1, 1e-2, 1e-3])
def test_the_epsilon_of_a_norm_is_part_of_the_function(norm, scale):
    """A layer before a norm whose values are as small as its epsilon cannot be rescaled freely."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), copy.deepcopy(norm), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)
    )
    with torch.no_grad():
        net[0].weight *= scale
        net[0].bias *= scale
        before = net(X)
        hs.calibrate(net, X)
        assert (net(X) - before).abs().max() <= 2e-3 * before.abs().max()
