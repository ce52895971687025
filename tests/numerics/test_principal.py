"""Leading eigenvectors against scikit-learn's PCA and a full singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from headstart.numerics import principal as module
from headstart.numerics.principal import largest_side, leading, mean_square, principal


def rows(n: int, dimensions: int, seed: int = 0) -> Tensor:
    """Centred rows whose deviations along random directions fall from 1 to 1/dimensions."""
    draw = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=draw, dtype=torch.float64))
    x = torch.randn(n, dimensions, generator=draw, dtype=torch.float64) / torch.arange(1, dimensions + 1)
    x = x @ turn
    return x - x.mean(0)


@pytest.mark.parametrize(("n", "dimensions"), [(300, 12), (30, 30), (12, 90), (2, 5), (1, 4)])
@pytest.mark.parametrize("block", [2**21, 50])
def test_equals_pca_whichever_space_is_smaller(
    n: int, dimensions: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    x = rows(n, dimensions) if n > 1 else torch.randn(1, dimensions, dtype=torch.float64)
    values, vectors = principal(x, 1000)
    _, singular, right = np.linalg.svd(x.numpy(), full_matrices=False)
    rank = min(n - 1, dimensions) if n > 1 else 1
    assert vectors.shape == (rank, dimensions)
    np.testing.assert_allclose(values, singular[:rank] ** 2 / n, rtol=1e-9)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(rank), atol=1e-9)
    np.testing.assert_allclose(np.abs((vectors.numpy() * right[:rank]).sum(1)), 1, atol=1e-9)
    if n > 2:
        reference = PCA(rank).fit(x.numpy())
        np.testing.assert_allclose(np.abs((vectors.numpy() * reference.components_).sum(1)), 1, atol=1e-9)
        np.testing.assert_allclose(values, reference.explained_variance_ * (n - 1) / n, rtol=1e-9)


def test_the_largest_entry_of_every_vector_is_positive() -> None:
    for n in (200, 8):
        _, vectors = principal(rows(n, 20), 5)
        lead = vectors.abs().argmax(1)
        assert (vectors[torch.arange(5), lead] > 0).all()
        assert torch.equal(principal(-rows(n, 20), 5)[1], vectors)


@pytest.mark.parametrize("n", [200, 12])
def test_no_more_than_asked_for_and_none_below_the_floor(n: int) -> None:
    x = rows(n, 20)
    values, vectors = principal(x, 1000)
    few, first = principal(x, 3)
    assert torch.equal(few, values[:3])
    torch.testing.assert_close(first, vectors[:3])
    assert len(principal(x, 1000, floor=float(values[4]))[0]) == 4
    assert len(principal(x, 1000, floor=float("inf"))[0]) == 0


@pytest.mark.parametrize("n", [200, 12])
def test_directions_that_do_not_vary_are_not_found(n: int) -> None:
    x = rows(n, 4) @ torch.randn(4, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, vectors = principal(x, 1000)
    assert len(values) == len(vectors) == 4
    zeros, none = principal(torch.zeros(n, 20), 5)
    assert zeros.shape == (0,)
    assert none.shape == (0, 20)


def test_single_precision_is_summed_in_double() -> None:
    x = rows(4000, 30).float()
    x[:, 0] *= 1e3
    values, _ = principal(x, 30)
    exact = np.linalg.eigvalsh(x.double().numpy().T @ x.double().numpy() / 4000)[::-1]
    np.testing.assert_allclose(values, exact, rtol=1e-9)


def test_mean_square_is_the_sum_of_all_eigenvalues() -> None:
    x = rows(50, 7)
    assert mean_square(x) == pytest.approx(float(principal(x, 7)[0].sum()))


@pytest.mark.parametrize("memory", [32, 2**20, 2**29, 10**10])
def test_the_largest_side_fits_and_one_more_does_not(memory: int) -> None:
    side = largest_side(memory)
    assert 4 * 8 * side**2 <= memory < 4 * 8 * (side + 1) ** 2


@pytest.mark.parametrize("n", [400, 150])
def test_a_search_for_a_few_directions_finds_those_of_the_whole(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE", 16)
    monkeypatch.setattr(module, "BLOCK", 3000)
    x = rows(n, 200)
    draw = torch.Generator().manual_seed(1)
    values, vectors = leading(x, 6, 0.0, draw)
    exact, directions = principal(x, 6)
    np.testing.assert_allclose(values, exact, rtol=1e-6)
    np.testing.assert_allclose((vectors * directions).sum(1), 1, atol=1e-6)
    seen = x @ vectors.T
    np.testing.assert_allclose(seen.T @ seen / n, torch.diag(values), atol=1e-12)
    few, _ = leading(x, 6, float(exact[2]), torch.Generator().manual_seed(1))
    assert len(few) == 2
