"""Three numbers that distinguish structured, random and redundant filters (Gavrikov and Keuper 2022).

From the formulas of *CNN Filter DB: An Empirical Investigation of Trained Convolutional Filters*, CVPR 2022.
They use only the weights. A *slice* is the kernel of one filter on one input channel.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SPARSE_BELOW = 0.01  # of the layer's largest magnitude
_BLOCK = 1024  # filters whose cosines are held at once
_EXACT = 2**20  # weights up to this many numbers are compared in double precision


class FilterMetrics(NamedTuple):
    """The three numbers for one convolution.

    Attributes:
        sparsity: Share of slices that are nearly zero.
        variance_entropy: 0 for slices along one direction, about 1 and above for random ones; None for
            fewer than three slices.
        orthogonality: 1 for orthogonal filters, 0 for copies; None for a single filter per group.
    """

    sparsity: float | None
    variance_entropy: float | None
    orthogonality: float | None


def filter_metrics(weight: Tensor, groups: int = 1) -> FilterMetrics:
    """Measure a convolution's weight.

    Args:
        weight: ``(out, in/groups, *kernel)``, in one, two or three dimensions.
        groups: The groups of the convolution.

    Returns:
        Sparsity and variance entropy for kernels of more than one tap, orthogonality for all. None where a number
        does not apply, and for weights that are not finite.

    Example:
        >>> filters = torch.eye(9).reshape(9, 1, 3, 3)
        >>> filter_metrics(filters).orthogonality
        1.0
    """
    if weight.dim() < 3 or not bool(torch.isfinite(weight).all()):
        return FilterMetrics(None, None, None)
    taps = math.prod(weight.shape[2:])
    if taps == 1:
        return FilterMetrics(None, None, orthogonality(weight, groups))
    return FilterMetrics(sparsity(weight), variance_entropy(weight), orthogonality(weight, groups))


def sparsity(weight: Tensor) -> float:
    """Share of slices whose largest magnitude is below 1 % of the layer's.

    Example:
        >>> weight = torch.ones(4, 1, 3, 3)
        >>> weight[0] = 0.001
        >>> sparsity(weight)
        0.25
    """
    size = weight.abs().flatten(2).amax(2)
    top = size.max()
    return float((size < SPARSE_BELOW * top).double().mean()) if top > 0 else 1.0


def variance_entropy(weight: Tensor) -> float | None:
    """Entropy (base 10) of the variance that each principal component of the slices explains, normalized.

    With ``p`` the explained-variance ratios, ``-sum(p * log10(p))`` is divided by

    - 3x3 kernels: ``T(n)``, the authors' fit to ``n`` random slices (:func:`randomness_threshold`);
    - kernels of any other size: ``log10(taps)``, the largest possible value. The fit holds for 3x3 only, so
      other values can only be compared within their size.

    Returns:
        About 1 and above: looks random. About 0.9: trained. Near 0: redundant; exactly 0 if all slices lie
        along one direction. None for fewer than three slices, which always do.

    Example:
        >>> atoms = torch.randn(2, 1, 3, 3).repeat(16, 1, 1, 1)  # two atoms lie on one line
        >>> variance_entropy(atoms)
        0.0
    """
    slices = weight.flatten(2).flatten(0, 1).double()
    count, taps = slices.shape
    if count < 3:
        return None
    scale = float(slices.abs().max())
    if scale == 0:
        return 0.0
    slices = slices / scale
    centred = slices - slices.mean(0)
    variances = torch.linalg.eigvalsh(centred.T @ centred / count).clamp_min(0)
    variances = torch.where(variances > 1e-12, variances, torch.zeros_like(variances))  # rounding, not variance
    total = float(variances.sum())
    if total == 0:
        return 0.0
    share = variances[variances > 0] / total
    entropy = max(0.0, float(-(share * share.log10()).sum()))  # -0.0 for a single component
    largest = randomness_threshold(count) if tuple(weight.shape[2:]) == (3, 3) else math.log10(taps)
    return entropy / largest


def randomness_threshold(count: int) -> float:
    """Variance entropy of ``count`` random 3x3 slices, as the authors fitted it.

    ``T(n) = 1.2618047 / (1 + exp(-0.88767525 * (log2(n) - 2.30436435))) - 0.31050834``

    Example:
        >>> round(randomness_threshold(2**20), 3)  # log10(9) = 0.954
        0.951
    """
    return 1.2618047 / (1 + math.exp(-0.88767525 * (math.log2(count) - 2.30436435))) - 0.31050834


def orthogonality(weight: Tensor, groups: int = 1) -> float | None:
    """One minus the mean magnitude of the cosine between two filters, over all pairs within a group.

    Filters that are all zero are left out.

    Returns:
        None where no group has two filters.

    Example:
        >>> orthogonality(torch.ones(2, 3, 3, 3))
        0.0
    """
    total, pairs = 0.0, 0
    flat = weight.flatten(1)
    for group in (flat.double() if flat.numel() < _EXACT else flat.float()).chunk(groups):
        norms = torch.linalg.vector_norm(group, dim=1, keepdim=True)
        unit = (group / norms)[norms.flatten() > 0]
        count = len(unit)
        if count < 2:
            continue
        magnitude = sum(float((block @ unit.T).abs().clamp_max(1).sum()) for block in unit.split(_BLOCK))
        total += magnitude - float((unit * unit).sum(1).abs().clamp_max(1).sum())
        pairs += count * (count - 1)
    return min(1.0, max(0.0, 1 - total / pairs)) if pairs else None
