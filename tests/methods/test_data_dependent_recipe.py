"""The composite does what its parts do in a row."""

import copy

import pytest
import torch
from torch import nn

import headstart as hs
from headstart.conformance.parts import Text


@pytest.mark.parametrize(
    ("recipe", "spec"),
    [
        (hs.DataDependent(), "within-layer+balance"),
        (hs.DataDependent("pca", beta=0.1), "within-layer:fill=pca,beta=0.1+balance"),
        (hs.KrahenbuhlKMeans(), "within-layer:kmeans+balance"),
        ("data-dependent:kmeans", "within-layer:kmeans+balance"),
        (hs.DataDependent(output_layer="keep"), "within-layer:output_layer=keep+balance"),
    ],
)
def test_a_recipe_is_its_spec(recipe, spec):
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)),
        torch.randn(96, 3, 8, 8),
    )
    other = copy.deepcopy(net)
    report = hs.initialize(net, x, recipe)
    hs.initialize(other, x, spec)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    assert report.changed[:2] == ["0", "2"]
    assert "-fold after, with 95 % confidence" in " ".join(report.findings)


def test_layers_before_norms_are_not_filled_and_are_balanced():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    x, other = torch.randn(96, 3, 8, 8), copy.deepcopy(net)
    report = hs.initialize(net, x, "data-dependent")
    hs.initialize(other, x, "within-layer+balance")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
    assert "normalizes its output" in " ".join(report.row("0").notes)


def test_attentions_projections_are_filled_and_normalized_and_the_layers_around_are_balanced():
    net, x = Text(), torch.randint(1, 11, (64, 9), generator=torch.Generator().manual_seed(0))
    other = copy.deepcopy(net)
    report = hs.initialize(net, x, "data-dependent")
    assert report.changed == ["attention.q", "attention.k", "attention.v", "attention.out_proj", "head"]
    hs.initialize(other, x, "within-layer+balance")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    vectors = net.embedding(x)
    made = net.attention(vectors, vectors, vectors, need_weights=False)[0].detach()
    assert abs(float(made.std((0, 1), correction=0).mean()) - 1) < 1e-3
