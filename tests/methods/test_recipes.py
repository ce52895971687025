"""Recipes do what their parts do in a row."""

import copy

import pytest
import torch
from torch import nn

import headstart as hs


@pytest.mark.parametrize(
    ("recipe", "spec"),
    [
        (hs.DataDependent(), "within-layer+balance"),
        (hs.DataDependent("pca", beta=0.1), "within-layer:fill=pca,beta=0.1+balance"),
        (hs.KrahenbuhlKMeans(), "within-layer:kmeans+balance"),
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
    assert report.changed == ["0", "2", "5"]
    assert "1-fold after" in " ".join(report.findings)
