"""SIREN's bounds against the paper's formulas, and where the frequency is found."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import headstart as hs


class SineLayer(nn.Module):
    """As in most code: the layer and its frequency in one module."""

    def __init__(self, inputs: int, outputs: int, omega: float, is_first: bool = False) -> None:
        super().__init__()
        self.omega_0, self.is_first = omega, is_first
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.omega_0 * self.linear(x))


class Sine(nn.Module):
    """An activation that knows its frequency."""

    def __init__(self, w0: float) -> None:
        super().__init__()
        self.register_buffer("w0", torch.tensor(w0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.w0 * x)


def reaches(weight: torch.Tensor, bound: float) -> bool:
    """Uniform in ±bound: never beyond, near it somewhere, and with the variance of it."""
    largest, std = float(weight.detach().abs().max()), float(weight.detach().std())
    return 0.99 * bound < largest <= bound and abs(std / (bound / math.sqrt(3)) - 1) < 0.05


def test_bounds_of_each_layer_by_its_own_frequency() -> None:
    net = nn.Sequential(SineLayer(3, 256, 60.0, True), SineLayer(256, 128, 20.0), SineLayer(128, 64, 10.0))
    hs.initialize(net, method="siren", seed=0)
    assert reaches(net[0].linear.weight, 1 / 3)
    assert reaches(net[1].linear.weight, math.sqrt(6 / 256) / 20)
    assert reaches(net[2].linear.weight, math.sqrt(6 / 128) / 10)


def test_the_frequency_of_an_activation_behind_and_of_the_last_layer() -> None:
    net = nn.Sequential(nn.Linear(2, 200), Sine(5.0), nn.Linear(200, 200), Sine(8.0), nn.Linear(200, 100))
    report = hs.initialize(net, method="siren", seed=0)
    assert reaches(net[0].weight, 1 / 2)
    assert reaches(net[2].weight, math.sqrt(6 / 200) / 8)
    assert reaches(net[4].weight, math.sqrt(6 / 200) / 8)  # that of the last sine before it
    assert not any("was used" in f for f in report.findings)


def test_a_given_frequency_counts_and_a_missing_one_is_told() -> None:
    net = nn.Sequential(nn.Linear(2, 200), nn.Tanh(), nn.Linear(200, 200))
    assert any("30 was used" in f for f in hs.initialize(net, method="siren", seed=0).findings)
    assert reaches(net[2].weight, math.sqrt(6 / 200) / 30)
    hs.initialize(net, method="siren:omega=4", seed=0)
    assert reaches(net[0].weight, 1 / 2)
    assert reaches(net[2].weight, math.sqrt(6 / 200) / 4)


def test_with_data_the_first_to_run_is_the_first() -> None:
    class Reverse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.early = nn.Linear(100, 80), nn.Linear(2, 100)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.late(torch.sin(30 * self.early(x)))

    net = Reverse()
    hs.initialize(net, torch.rand(16, 2), "siren:omega=30")
    assert reaches(net.early.weight, 1 / 2)
    assert reaches(net.late.weight, math.sqrt(6 / 100) / 30)


def test_sines_have_one_distribution_at_every_depth() -> None:
    """What the paper promises: behind the first layer the weights give arguments of the sine a deviation of 1."""
    net = nn.Sequential(SineLayer(1, 256, 30.0, True), *(SineLayer(256, 256, 30.0) for _ in range(6)))
    hs.initialize(net, method="siren", seed=1)
    for layer in net:
        nn.init.zeros_(layer.linear.bias)
    x, deviations = torch.rand(2000, 1) * 2 - 1, []
    for layer in net:
        argument = layer.omega_0 * layer.linear(x).detach()
        deviations.append(float(argument.std()))
        x = torch.sin(argument)
    assert all(0.85 < d < 1.1 for d in deviations[1:])


def test_biases_stay() -> None:
    net = nn.Linear(4, 4)
    before = net.bias.detach().clone()
    hs.initialize(net, method="siren")
    assert torch.equal(net.bias, before)


def test_an_option_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(hs.HeadstartError, match="omega=-1 is not a positive number"):
        hs.Siren(omega=-1)
