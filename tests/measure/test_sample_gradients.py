"""Squared gradients sample by sample: those of plain autograd, one backward pass a sample."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headstart import rng
from headstart.measure import sample_gradients
from headstart.measure.gradients import forward_backward
from headstart.measure.sample_gradients import SampleGradients, directions
from headstart.model.inputs import Batch
from headstart.model.norms import fresh_batch_norms
from headstart.model.trace import trace_model

SIZE = 6


@pytest.fixture(params=[False, True], ids=["by shares", "by places"], autouse=True)
def _by_places(request, monkeypatch):
    """Both ways to the lengths, whatever the sizes of a layer."""
    monkeypatch.setattr(
        sample_gradients, "_few_places", lambda layer, delta: request.param and layer.kind != "transposed"
    )


def measured(model, x, seed=0, whole=False):
    """What the passes show, and the gradient that was drawn for the output."""
    trace, batch = trace_model(model.eval(), Batch((x,))), Batch((x,))
    names = [layer.name for layer in trace.layers if whole]
    samples = SampleGradients(trace.layers, len(x), bool(fresh_batch_norms(model)), names)
    passes = forward_backward(model, trace, batch, None, None, seed, samples)
    one = samples.finish(passes.gradients)
    return samples.squares, one, trace


class Twice(nn.Module):
    """A layer that runs twice, and sequences."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.inner(torch.relu(self.inner(x))).mean(1))


class Folded(nn.Module):
    """Parts of every sample as samples of their own."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Conv1d(2, 4, 2), nn.Linear(4, 3)

    def forward(self, x):
        value = self.inner(x.reshape(-1, 2, x.shape[-1])).relu().mean(2)
        return self.head(value.reshape(len(x), -1, 4).sum(1))


class SequenceFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.inner(x.transpose(0, 1))).mean(0))


MODELS = {
    "convolutions": lambda: (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, stride=2, padding_mode="reflect"), nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, (2, 3), padding="same", dilation=2, groups=2), nn.ReLU(inplace=True),
            nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2), nn.GELU(),
            nn.Flatten(), nn.LazyLinear(3),
        ),
        torch.randn(SIZE, 2, 8, 8),
    ),
    "weight norm": lambda: (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(7, 5)), nn.ReLU(inplace=True), nn.Linear(5, 3)),
        torch.randn(SIZE, 7),
    ),
    "twice": lambda: (Twice(), torch.randn(SIZE, 4, 5)),
    "folded": lambda: (Folded(), torch.randn(SIZE, 6, 5)),
    "sequence first": lambda: (SequenceFirst(), torch.randn(SIZE, 4, 4)),
    "five sequences of linear layers": lambda: (
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(SIZE, 5, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_each_sample_has_the_square_that_autograd_finds_for_it_alone(kind):
    torch.manual_seed(0)
    model, x = MODELS[kind]()
    model(x)
    squares, one, trace = measured(model, x)
    assert one == []
    shape = model(x).shape
    top = directions(SIZE, shape[1:].numel(), rng.generator(0, "top gradient", "0")).reshape(shape) / SIZE
    for layer in trace.layers:
        found = squares[layer.name]
        assert found.shape == (SIZE, layer.in_channels)
        for number in range(SIZE):
            with nn.utils.parametrize.cached():
                weight = layer.module.weight
                (g,) = torch.autograd.grad(model(x[number : number + 1]), weight, top[number : number + 1])
            if layer.kind == "transposed":
                columns = g.square().flatten(1).sum(1)
            else:
                columns = g.unflatten(0, (layer.groups, -1)).square().unsqueeze(-1).flatten(3).sum((1, 3)).flatten()
            assert found[number] == pytest.approx(columns.numpy(), rel=1e-4, abs=1e-10), (layer.name, number)


@pytest.mark.parametrize("memory", [sample_gradients.MEMORY, 1])
@pytest.mark.parametrize("kind", MODELS)
def test_whole_layers_have_the_sum_over_channels_whatever_is_held_at_a_time(kind, memory, monkeypatch):
    torch.manual_seed(0)
    model, x = MODELS[kind]()
    model(x)
    apart, *_ = measured(model, x)
    monkeypatch.setattr(sample_gradients, "MEMORY", memory)
    together, one, _ = measured(model, x, whole=True)
    assert one == []
    for name, squares in apart.items():
        assert together[name] == pytest.approx(squares.sum(1, keepdims=True), rel=1e-4)


@pytest.mark.parametrize("kind", ["standardized", "tied to an embedding"])
def test_where_shares_do_not_add_up_the_one_gradient_counts(kind):
    class Standardized(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight - self.weight.mean(1, keepdim=True))

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(4, 5), nn.Linear(5, 4, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.embed((x[:, 0] > 0).long()))

    torch.manual_seed(0)
    model = nn.Sequential(Standardized(4, 5), nn.ReLU(), nn.Linear(5, 3)) if kind == "standardized" else Tied()
    squares, one, trace = measured(model, torch.randn(SIZE, 4) + 1)
    assert one == [trace.layers[0].name]
    assert len(squares[one[0]]) == 1
    assert float(squares[one[0]].sum()) > 0


def blocks(kind):
    layers = [nn.Linear(8, 12)] if kind == "linear" else [nn.Conv2d(2, 6, 3, padding=1)]
    for _ in range(2):
        if kind == "linear":
            layers += [nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 12)]
        else:
            layers += [nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1)]
    return nn.Sequential(*layers, *([] if kind == "linear" else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]))


@pytest.mark.parametrize("kind", ["linear", "convolutions"])
def test_a_fresh_batch_norm_takes_its_part_out_of_the_expectation(kind):
    torch.manual_seed(0)
    model, x = blocks(kind), torch.rand(*((32, 8) if kind == "linear" else (32, 2, 6, 6)))
    model.train()
    layers = [m for m in model if isinstance(m, (nn.Linear, nn.Conv2d))]
    outputs, exact = model(x).flatten(), 0
    for value in outputs:  # the whole Jacobian, through the statistics of the batch
        found = torch.autograd.grad(value, [m.weight for m in layers], retain_graph=True)
        exact = exact + torch.stack([g.double().square().sum() for g in found]) / 32**2
    torch.manual_seed(0)
    model = blocks(kind)  # the same, and fresh
    squares, one, trace = measured(model, x)
    assert one == []
    gaps = [
        0.5 * math.log(float(squares[layer.name].sum()) / float(truth))
        for layer, truth in zip(trace.layers, exact, strict=True)
    ]
    assert max(map(abs, gaps)) < 0.15  # without taking it out: 0.3 to 1.2


@pytest.mark.parametrize("kind", ["linear", "convolutions"])
@pytest.mark.parametrize("whole", [False, True])
def test_both_ways_take_the_same_part_out(kind, whole, monkeypatch):
    found = []
    for places in (False, True):
        monkeypatch.setattr(sample_gradients, "_few_places", lambda layer, delta, places=places: places)
        torch.manual_seed(0)
        model, x = blocks(kind), torch.rand(*((32, 8) if kind == "linear" else (32, 2, 6, 6)))
        squares, one, _ = measured(model, x, whole=whole)
        assert one == []
        found.append(squares)
    for name, squares in found[0].items():
        assert found[1][name] == pytest.approx(squares, rel=1e-3, abs=1e-6 * float(squares.max()))


class Derivative(nn.Module):
    """What its network does when its input changes."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x):
        x = x.clone().requires_grad_()
        first = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]
        return torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)[0]


def test_gradients_that_the_forward_asks_for_are_not_taken_for_those_of_the_pass():
    torch.manual_seed(0)
    model, x = Derivative(), torch.randn(SIZE, 4)
    squares, one, _ = measured(model, x)
    assert one == ["net.0", "net.2"]  # the weights take part in the backward pass, too
    assert all(np.isfinite(square).all() and square.any() for square in squares.values())
