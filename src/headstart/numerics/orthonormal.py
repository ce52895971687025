"""Orthonormal columns from normal ones, by products of matrices and Cholesky decompositions: fast on any device."""

from __future__ import annotations

import torch
from torch import Tensor

LONG = 2.0  # times as many rows as columns, of these at least so many: a Gaussian matrix is then well-conditioned
MANY = 8
BLOCK = 512  # columns whose products with those before are computed together


def orthonormal_columns(tall: Tensor) -> tuple[Tensor, Tensor]:
    """Make the columns of matrices orthonormal, as Gram-Schmidt does.

    The result is Q of the QR decomposition whose R has a positive diagonal: of normal entries it is uniform among all
    matrices with orthonormal columns (Mezzadri 2007). Where there are twice as many rows as columns, ``R`` is the
    Cholesky factor of ``tall.T @ tall``, and the columns are orthonormal to 1e-6 in float32. A nearly square matrix may
    be ill-conditioned. The CPU decomposes it by reflections. An accelerator, which is slow at that, does what is above
    twice in float64, the first time with a small shift of the diagonal (Fukaya et al. 2020, shifted Cholesky QR).

    Args:
        tall: ``(..., rows, columns)``, at least as many rows as columns, in float32 or float64: independent normal
            values.

    Returns:
        The matrices, and for each whether it failed (not 0), as it does if the columns are linearly dependent. Read
        this together with other checks, since every read waits for the device.

    Example:
        >>> q, failed = orthonormal_columns(torch.tensor([[3.0, 1.0], [4.0, 0.0]]))
        >>> [[round(x, 4) for x in row] for row in q.abs().tolist()], int(failed)
        ([[0.6, 0.8], [0.8, 0.6]], 0)
    """
    *_, rows, columns = tall.shape
    if rows >= LONG * columns and columns >= MANY:
        return _round(tall)
    return _by_reflections(tall) if tall.device.type == "cpu" else _twice(tall)


def _by_reflections(tall: Tensor) -> tuple[Tensor, Tensor]:
    q, r = torch.linalg.qr(tall)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    return q * diagonal.sgn().unsqueeze(-2), (diagonal == 0).any(-1)


def _twice(tall: Tensor) -> tuple[Tensor, Tensor]:
    *_, rows, columns = tall.shape
    wide = tall.to(torch.complex128 if tall.is_complex() else torch.float64)
    q, failed = _round(wide, 11 * (rows + columns + 1) * columns * torch.finfo(wide.dtype).eps)
    return _round(q)[0].to(tall.dtype), failed


def _round(matrix: Tensor, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Divide by the Cholesky factor of the columns' Gram matrix.

    Args:
        matrix: ``(..., rows, columns)``.
        shift: Added to the diagonal, as a share of itself.
    """
    products = _products(matrix)
    if shift:
        products.diagonal(dim1=-2, dim2=-1).mul_(1 + shift)
    factor, failed = torch.linalg.cholesky_ex(products, upper=True)
    return torch.linalg.solve_triangular(factor, matrix, upper=True, left=False), failed


def _products(matrix: Tensor) -> Tensor:
    """Products of all columns; below the diagonal some are left out, which the upper factor does not read."""
    columns = matrix.shape[-1]
    if columns <= 2 * BLOCK:
        return matrix.mH @ matrix
    found = matrix.new_zeros(*matrix.shape[:-2], columns, columns)
    for start in range(0, columns, BLOCK):
        own = slice(start, start + BLOCK)
        found[..., : start + BLOCK, own] = matrix[..., : start + BLOCK].mH @ matrix[..., own]
    return found
