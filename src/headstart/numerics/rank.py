"""How many directions the rows of a matrix effectively span."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(rows: Tensor) -> float:
    """The participation ratio of the squared singular values: ``(sum s²)² / sum s⁴``; 0 for zeros.

    It is the number of singular values if all are equal, and near 1 if one dominates.

    Args:
        rows: ``(n, entries)``.

    Example:
        >>> effective_rank(torch.eye(4)), effective_rank(torch.ones(4, 9))
        (4.0, 1.0)
    """
    wide = rows if rows.dtype == torch.float64 else rows.float()
    gram = (wide @ wide.T if len(wide) <= wide.shape[1] else wide.T @ wide).double()
    total, squares = float(gram.diagonal().sum()), float(gram.square().sum())
    return total**2 / squares if squares > 0 else 0.0


def random_rank(count: int, entries: int) -> float:
    """The expected :func:`effective_rank` of independent normal numbers: ``n m / (n + m + 1)``."""
    return count * entries / (count + entries + 1)
