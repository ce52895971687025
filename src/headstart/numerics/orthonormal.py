"""Orthonormal columns from random ones, by products of matrices and Cholesky decompositions: fast on any device."""

from __future__ import annotations

import torch
from torch import Tensor

LONG = 1.5  # times as many rows as columns, of these at least so many: a Gaussian matrix is then well-conditioned
MANY = 8


def orthonormal_columns(tall: Tensor) -> tuple[Tensor, Tensor]:
    """Make the columns of matrices orthonormal, as Gram-Schmidt does.

    The result is Q of the QR decomposition whose R has a positive diagonal: of Gaussian entries it is uniform among all
    matrices with orthonormal columns (Mezzadri 2007). ``R`` is the Cholesky factor of ``tall.T @ tall``; doing this
    twice removes the rounding errors. A nearly square matrix may be ill-conditioned: then all is done in float64,
    the first time with a small shift of the diagonal (Fukaya et al. 2020, shifted Cholesky QR).

    Args:
        tall: ``(..., rows, columns)``, at least as many rows as columns, in float32 or float64.

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
        q, failed = _round(tall)
    else:
        wide = tall.to(torch.complex128 if tall.is_complex() else torch.float64)
        q, failed = _round(wide, 11 * (rows + columns + 1) * columns * torch.finfo(wide.dtype).eps)
    return _round(q)[0].to(tall.dtype), failed


def _round(matrix: Tensor, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Divide by the Cholesky factor of the columns' Gram matrix.

    Args:
        matrix: ``(..., rows, columns)``.
        shift: Added to the diagonal, as a share of itself.
    """
    products = matrix.mH @ matrix
    if shift:
        products.diagonal(dim1=-2, dim2=-1).mul_(1 + shift)
    factor, failed = torch.linalg.cholesky_ex(products, upper=True)
    return torch.linalg.solve_triangular(factor, matrix, upper=True, left=False), failed
