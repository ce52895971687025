"""Leading eigenvectors of a covariance, computed in the smaller of its two spaces."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from headstart.numerics.fetching import Values, fetch

BLOCK = 2**21  # values that are widened to float64 at a time
WHOLE = 1024  # side of the largest matrix that is decomposed whole where a few of its vectors are asked for
MORE, ROUNDS = 16, 4  # directions beyond those asked for, and products with the covariance, of a search for a few
WORKING = 4  # matrices that an eigendecomposition holds: the covariance, the eigenvectors, two of working space


def largest_side(memory: int) -> int:
    """Side of the largest matrix whose eigendecomposition fits into this many bytes.

    Example:
        >>> largest_side(2**29)
        4096
    """
    return math.isqrt(memory // (WORKING * 8))


def mean_square(rows: Tensor) -> float:
    """Mean squared length of rows: the sum of all eigenvalues.

    Example:
        >>> mean_square(torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
        13.0
    """
    return float(torch.linalg.vector_norm(rows, dim=1).double().square().mean())


def principal(rows: Tensor, most: int, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """The leading eigenvectors of ``rows.T @ rows / len(rows)``, largest eigenvalue first.

    Args:
        rows: ``(n, dimensions)``; the caller centres them if needed.
        most: The largest number of eigenvectors.
        floor: Eigenvalues up to here are rounding errors and left out; 0 estimates the limit.

    Returns:
        Eigenvalues ``(found,)`` and unit eigenvectors ``(found, dimensions)`` in float64. The largest entry of every
        vector is positive, since the sign of an eigenvector is arbitrary.

    Example:
        >>> values, vectors = principal(torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 2)
        >>> values.tolist(), vectors.tolist()
        ([4.5, 0.5], [[1.0, 0.0], [0.0, 1.0]])
    """
    spectrum = Spectrum(rows)
    (values,) = fetch([spectrum.values])
    vectors = spectrum.vectors(spectrum.count(values, most, floor))
    return spectrum.values[: len(vectors)], vectors


def few_of_many(rows: Tensor, most: int) -> bool:
    """Whether so few directions of so many are asked for that :func:`leading` searches for them."""
    return min(rows.shape) > max(WHOLE, 4 * (most + MORE))


def leading(rows: Tensor, most: int, floor: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As :func:`principal`, but by a randomized search if only a few of many directions are needed.

    The search (Halko, Martinsson and Tropp 2011) multiplies random directions by the covariance a few times, without
    ever building it, and decomposes the covariance in the space that they span. In that space the result is exact:
    the vectors are orthonormal, and the rows are uncorrelated along them. Directions with nearly equal eigenvalues may
    mix.

    Args:
        rows: ``(n, dimensions)``.
        most: The largest number of eigenvectors.
        floor: Eigenvalues up to here are left out.
        generator: Draws the random directions, on the CPU.

    Returns:
        Eigenvalues and unit eigenvectors, as from :func:`principal`.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> rows = torch.randn(1100, 1100, generator=draw) * torch.arange(1, 1101) ** -1.0
        >>> values, vectors = leading(rows, 4, 0.0, draw)
        >>> vectors[:, :4].abs().argmax(1).tolist()
        [0, 1, 2, 3]
    """
    n, dimensions = rows.shape
    count = most + MORE
    if not few_of_many(rows, most):
        return principal(rows, most, floor)
    blocks = rows.split(max(1, BLOCK // dimensions))
    span = torch.randn(dimensions, count, generator=generator, dtype=torch.float64).to(rows.device)
    for _ in range(ROUNDS):
        images = torch.zeros_like(span)
        for block in blocks:
            part = block.double()
            images.addmm_(part.T, part @ span)
        span = torch.linalg.qr(images).Q
    seen = torch.cat([block.double() @ span for block in blocks])
    values, vectors = torch.linalg.eigh(seen.T @ seen / n)
    found = min(most, int((values > max(floor, torch.finfo(torch.float64).eps * n * float(values[-1]))).sum()))
    last = count - found
    return values[last:].flip(0), _signed((span @ vectors[:, last:].flip(1)).T.contiguous())


def _signed(vectors: Tensor) -> Tensor:
    """Make the largest entry of each positive."""
    lead = vectors.abs().argmax(1, keepdim=True)
    return vectors * vectors.gather(1, lead).sign()


class Spectrum:
    """The eigenvalues of ``rows.T @ rows / len(rows)``, and the leading eigenvectors.

    With more rows than columns the covariance is decomposed, otherwise the Gram matrix of the rows, which has the
    same eigenvalues. Both are summed in float64, block by block.

    Args:
        rows: ``(n, dimensions)``.

    Attributes:
        values: Eigenvalues in float64, the largest first, on the device.
    """

    def __init__(self, rows: Tensor) -> None:
        n, dimensions = rows.shape
        self._sides, self._wide = max(rows.shape), dimensions > n
        narrow = rows.T if self._wide else rows  # blocks of the longer side
        self._blocks = narrow.split(step) if (step := max(1, BLOCK // narrow.shape[1])) < len(narrow) else [narrow]
        products: Tensor | None = None
        for block in self._blocks:
            part = block.double()
            products = part.T @ part if products is None else products.addmm_(part.T, part)
        assert products is not None
        values, self._vectors = torch.linalg.eigh(products.div_(-n))  # so that the largest comes first
        self.values = values.neg_()

    def count(self, values: Values, most: int, floor: float) -> int:
        """How many of the fetched eigenvalues lie above a floor and above rounding errors; at most ``most``."""
        tiny = np.finfo(np.float64).eps * self._sides * float(values[0])
        return min(most, int(((values > floor) & (values > tiny)).sum()))

    def vectors(self, count: int) -> Tensor:
        """The leading unit eigenvectors ``(count, dimensions)``, the largest entry of each positive."""
        vectors = self._vectors[:, :count].T
        if self._wide:
            vectors = torch.cat([vectors @ block.double().T for block in self._blocks], 1)
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        return _signed(vectors)
