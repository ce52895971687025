"""Filter metrics against plain formulas, scikit-learn's PCA and the cases at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from headstart.diagnosis.filter_metrics import (
    filter_metrics,
    orthogonality,
    randomness_threshold,
    sparsity,
    variance_entropy,
)


@pytest.mark.parametrize(
    "shape", [(16, 4, 3, 3), (5, 3, 3, 3), (8, 2, 5, 5), (12, 3, 7), (6, 2, 3, 3, 3), (9, 1, 2, 2)]
)
def test_variance_entropy_is_that_of_a_pca(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    slices = weight.flatten(2).flatten(0, 1).double().numpy()
    ratios = PCA().fit(slices).explained_variance_ratio_
    ratios = ratios[ratios > 1e-12]
    entropy = -(ratios * np.log10(ratios)).sum()
    n = len(slices)
    fit = 1.2618047 / (1 + math.exp(-0.88767525 * (math.log2(n) - 2.30436435))) - 0.31050834
    expected = entropy / (fit if shape[2:] == (3, 3) else math.log10(math.prod(shape[2:])))
    assert variance_entropy(weight) == pytest.approx(expected, rel=1e-6)


def test_random_filters_reach_the_authors_fit():
    for n in (256, 1024, 4096):
        weight = torch.randn(n, 1, 3, 3, generator=torch.Generator().manual_seed(n))
        assert variance_entropy(weight) == pytest.approx(1.0, abs=0.01)
    assert randomness_threshold(2) < 0.01  # two slices lie on one line


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_variance_entropy_of_few_directions_and_any_scale(scale):
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(3, 3, 3, generator=generator) * scale
    pick = torch.randint(0, 3, (16, 8), generator=generator)
    assert variance_entropy(atoms[pick % 2]) == 0.0
    three = variance_entropy(atoms[pick])
    assert 0 < three <= math.log10(2) / randomness_threshold(128)
    assert variance_entropy(atoms[:1].expand(16, 8, 3, 3)) == 0.0
    assert variance_entropy(torch.zeros(4, 4, 3, 3)) == 0.0
    assert variance_entropy(atoms[:2, None]) is None


def test_sparsity_counts_slices_below_a_hundredth_of_the_largest():
    weight = torch.full((2, 4, 3, 3), 0.5)
    weight[0, 0] = 0.00501
    weight[0, 1] = 0.00499
    weight[1, 2] = 0.0
    assert sparsity(weight) == pytest.approx(2 / 8)
    assert sparsity(-weight) == sparsity(weight)
    assert sparsity(torch.zeros(2, 2, 3, 3)) == 1.0


def test_orthogonality_against_all_pairs():
    weight = torch.randn(7, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    rows = weight.flatten(1).double()
    cosines = [
        abs(float(torch.nn.functional.cosine_similarity(rows[i], rows[j], dim=0)))
        for i in range(7)
        for j in range(7)
        if i != j
    ]
    assert orthogonality(weight) == pytest.approx(1 - np.mean(cosines), rel=1e-9)
    scaled = weight * torch.arange(1, 8).view(-1, 1, 1, 1)
    assert orthogonality(scaled) == pytest.approx(orthogonality(weight))
    assert orthogonality(torch.cat([weight[:1], -weight[:1]])) == pytest.approx(0, abs=1e-12)
    with_zero = torch.cat([weight, torch.zeros(1, 3, 3, 3)])
    assert orthogonality(with_zero) == pytest.approx(orthogonality(weight))


def test_orthogonality_in_blocks_and_groups():
    weight = torch.randn(1100, 2, 1, 1, generator=torch.Generator().manual_seed(0))  # more than one block
    unit = torch.nn.functional.normalize(weight.flatten(1).double())
    magnitude = (unit @ unit.T).abs()
    expected = 1 - float(magnitude.sum() - magnitude.trace()) / (1100 * 1099)
    assert orthogonality(weight) == pytest.approx(expected, rel=1e-6)
    two = torch.stack([torch.ones(2, 9), torch.eye(2, 9)]).reshape(4, 1, 3, 3)
    assert orthogonality(two, groups=2) == pytest.approx(0.5)  # copies in one group, right angles in the other
    assert orthogonality(torch.randn(4, 1, 3, 3), groups=4) is None


def test_what_does_not_apply():
    assert filter_metrics(torch.randn(8, 8)) == (None, None, None)
    pointwise = filter_metrics(torch.randn(8, 4, 1, 1))
    assert pointwise[:2] == (None, None)
    assert 0 < pointwise.orthogonality < 1
    broken = torch.randn(8, 4, 3, 3)
    broken[0, 0, 0, 0] = math.nan
    assert filter_metrics(broken) == (None, None, None)
