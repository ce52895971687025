"""Recurrent starts against the formulas, gate by gate, and what they promise: memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import headstart as hs

GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


@pytest.mark.parametrize("cls", list(GATES), ids=lambda c: c.__name__)
def test_hidden_weights_are_orthogonal_and_input_weights_are_xaviers_in_each_gate(cls: type[nn.RNNBase]) -> None:
    net = cls(30, 40, num_layers=2, bidirectional=True)
    hs.initialize(net, method="recurrent", seed=1)
    blocks = 0
    for name, value in net.named_parameters():
        for block in value.detach().chunk(GATES[cls]) if "weight" in name else ():
            blocks += 1
            if "hh" in name:
                assert torch.allclose(block @ block.T, torch.eye(40), atol=1e-5)
            else:
                bound = math.sqrt(6 / sum(block.shape))
                assert 0.95 * bound < float(block.abs().max()) <= bound
                assert math.isclose(float(block.std()), bound / math.sqrt(3), rel_tol=0.1)
    assert blocks == 2 * 2 * 2 * GATES[cls]


@pytest.mark.parametrize("make", [lambda: nn.LSTM(3, 5, 2), lambda: nn.LSTMCell(3, 5)], ids=["layer", "cell"])
def test_the_forget_gate_begins_open_and_all_other_biases_are_zero(make) -> None:
    net = make()
    hs.initialize(net, method="recurrent")
    names = [n for n, _ in net.named_parameters() if n.startswith("bias_ih")]
    assert names
    for name in names:
        both = (net.get_parameter(name) + net.get_parameter(name.replace("ih", "hh"))).detach()
        i, f, g, o = both.chunk(4)
        assert f.tolist() == [1.0] * 5
        assert not any(bool(b.any()) for b in (i, g, o))
    hs.initialize(net, method="recurrent:forget=2.5")
    assert net.get_parameter(names[0]).detach().chunk(4)[1].tolist() == [2.5] * 5


def test_chrono_spreads_the_times_of_forgetting_evenly() -> None:
    net = nn.LSTM(3, 4000)
    hs.initialize(net, method="recurrent:chrono,hidden=keep,longest=500", seed=2)
    i, f, g, o = (net.bias_ih_l0 + net.bias_hh_l0).detach().chunk(4)
    times = f.exp()
    assert 1 <= float(times.min()) < 3
    assert 497 < float(times.max()) <= 499
    assert math.isclose(float(times.mean()), 250, rel_tol=0.03)
    assert math.isclose(float(times.std()), 498 / math.sqrt(12), rel_tol=0.03)
    assert torch.equal(i, -f)
    assert not bool(g.any() or o.any())
    gru = nn.GRU(3, 50)
    hs.initialize(gru, method="recurrent:chrono")
    r, z, n = (gru.bias_ih_l0 + gru.bias_hh_l0).detach().chunk(3)
    assert bool((z > 0).all())
    assert not bool(r.any() or n.any())


def test_what_is_no_gate_stays() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 6, proj_size=4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[0])

    net = Net()
    before = net.head.weight.detach().clone()
    report = hs.initialize(net, torch.randn(9, 8, 3), "recurrent")
    assert torch.equal(net.head.weight, before)
    assert torch.allclose(net.lstm.weight_hr_l0 @ net.lstm.weight_hr_l0.T, torch.eye(4), atol=1e-5)
    assert any("1 recurrent modules: 'lstm'" in f for f in report.findings)
    report = hs.initialize(nn.Linear(3, 3), method="recurrent")
    assert any("no LSTM, GRU or RNN layer" in f for f in report.findings)


def test_it_remembers_longer_than_torchs_own_start() -> None:
    """How far the first of 60 steps still moves the last cell state."""
    torch.manual_seed(0)
    reach = {}
    for method in ("default", "recurrent"):
        net = nn.LSTM(4, 64)
        hs.initialize(net, method=method, seed=0)
        x = torch.randn(60, 8, 4, requires_grad=True)
        net(x)[1][1].square().sum().backward()
        reach[method] = x.grad[0].norm().item()
    assert reach["recurrent"] > 100 * reach["default"]


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(hs.HeadstartError, match="longest=2 is too short"):
        hs.Recurrent(longest=2)
    with pytest.raises(hs.HeadstartError, match="hidden='identity' is not known"):
        hs.Recurrent(hidden="identity")
