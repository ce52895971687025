"""Auto keeps directions, heads and normalized layers, and mends what fades."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import headstart as hs


def deep(depth: int = 20) -> nn.Module:
    torch.manual_seed(0)
    convs = [m for _ in range(depth) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *convs, nn.Flatten(), nn.Linear(8 * 64, 5))


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def across_samples(out: Tensor) -> float:
    return float(out.detach().std(0, correction=0).mean())


def test_is_the_default_method() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    twin = copy.deepcopy(model)
    data = torch.randn(64, 4)
    hs.initialize(model, data)
    hs.initialize(twin, data, "auto")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_deep_plain_stack_tells_inputs_apart_again(x: Tensor) -> None:
    model = deep()
    assert across_samples(model[:-2](x)) < 1e-6, "the framework's start lost them"  # type: ignore[index]
    hs.initialize(model, x)
    assert across_samples(model[:-2](x)) > 0.1  # type: ignore[index]


def test_is_within_layer_on_the_weights_there_are_without_the_output_layer(x: Tensor) -> None:
    model = deep(3)
    twin, before = copy.deepcopy(model), copy.deepcopy(model)
    report = hs.initialize(model, x)
    hs.initialize(twin, x, hs.WithinLayer(fill="keep", output_layer="keep"))
    for ours, theirs, old in zip(model.modules(), twin.modules(), before.modules(), strict=True):
        if isinstance(ours, nn.Conv2d):
            assert torch.equal(ours.weight, theirs.weight)  # type: ignore[arg-type]
            cosine = F.cosine_similarity(ours.weight.flatten(1), old.weight.flatten(1))  # type: ignore[union-attr, operator]
            torch.testing.assert_close(cosine, torch.ones_like(cosine))
    assert torch.equal(model[-1].weight, before[-1].weight)  # type: ignore[index]
    assert torch.equal(model[-1].bias, before[-1].bias)  # type: ignore[index]
    assert report.row("9").notes == ["an output layer, whose scale sets the first loss"]


def test_leaves_a_net_with_a_norm_behind_every_hidden_layer_alone(x: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.Flatten()
    )
    model.append(nn.Linear(8 * 16, 5))
    before = copy.deepcopy(model.state_dict())
    report = hs.initialize(model, x)
    assert report.changed == []
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert any("2 layers whose output a normalization takes" in f for f in report.findings)


def test_hidden_linear_layers_behind_batch_norms_are_not_blown_up(x: Tensor) -> None:
    """In evaluation mode a fresh batch norm passes fading signals on; in training it does not."""
    torch.manual_seed(0)
    blocks = [m for _ in range(10) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *blocks, nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 5))
    default = across_samples(model.train()(x))
    hs.initialize(model, x)
    assert model.training
    hidden = model[:-2](x)  # type: ignore[index]
    torch.testing.assert_close(hidden.std(0, correction=0), torch.ones(32), atol=1e-3, rtol=0)
    assert across_samples(model(x)) < 10 * default


def test_one_layer_is_no_output_layer() -> None:
    layer = nn.Linear(6, 3)
    data = torch.randn(64, 6)
    hs.initialize(layer, data)
    torch.testing.assert_close(layer(data).std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
