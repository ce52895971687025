"""Orthonormal columns against the QR decomposition in float64."""

import numpy as np
import pytest
import torch

from headstart.numerics import orthonormal
from headstart.numerics.orthonormal import orthonormal_columns

SHAPES = [(1, 1), (9, 1), (40, 40), (257, 256), (45, 30), (600, 64), (27, 16), (40, 20)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_columns_are_those_of_the_decomposition_with_a_positive_diagonal(shape, dtype):
    tall = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found, failed = orthonormal_columns(tall)
    assert not failed.any()
    assert found.dtype == dtype
    gram = found.mT @ found
    assert float((gram - torch.eye(shape[1], dtype=dtype)).abs().max()) <= 1e-6
    q, r = np.linalg.qr(tall.double().numpy())
    signs = np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    size = 1e-4 if dtype == torch.float32 else 1e-8  # what the condition of a square matrix leaves
    np.testing.assert_allclose(found.double().numpy(), q * signs, atol=size)


def test_long_matrices_in_blocks_have_all_products_that_count(monkeypatch):
    tall = torch.randn(2, 90, 21, generator=torch.Generator().manual_seed(0))
    whole, _ = orthonormal_columns(tall)
    monkeypatch.setattr(orthonormal, "BLOCK", 8)
    blocks, failed = orthonormal_columns(tall)
    assert not failed.any()
    torch.testing.assert_close(blocks, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("shape", [(40, 40), (30, 24)])
def test_an_accelerators_way_comes_to_the_same(shape, dtype):
    tall = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    (ours, _), (theirs, failed) = orthonormal._by_reflections(tall), orthonormal._twice(tall)
    assert not failed.any()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("way", [orthonormal._by_reflections, orthonormal._twice])
def test_a_nearly_singular_square_matrix_is_made_orthonormal_too(way):
    square = torch.randn(50, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    square[:, -1] = square[:, 0] + 1e-6 * square[:, -1]
    found, failed = way(square)
    assert not failed
    torch.testing.assert_close(found.T @ found, torch.eye(50, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(9, 3), (30, 10), (4, 4)])
def test_columns_without_a_basis_are_told(shape):
    assert orthonormal_columns(torch.zeros(*shape))[1] > 0
    assert orthonormal._twice(torch.zeros(*shape))[1] > 0
