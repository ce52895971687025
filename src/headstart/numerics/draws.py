"""Whether numbers look like independent draws from one zero-mean distribution, and if not, why."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.special import gammainc, gammaincc, ndtr
from torch import Tensor

from headstart.numerics.fetching import Values, fetch

FEWEST = 32  # values: of fewer nothing can be told
MOST = 2**14  # values of a row, or of a test of the law: more cost more and tell no more
ROWS = 64  # rows of a group, and groups, that are compared with each other
SURE = 1e-6  # probability under which what was seen is not taken for chance
_LARGE = 8  # deviations that the kurtosis may lie above that of a normal law

_TRUNCATED = 2.0  # deviations at which a truncated normal law ends
_KEPT = math.erf(_TRUNCATED / math.sqrt(2))
_SHRUNK = math.sqrt(1 - 2 * _TRUNCATED * math.exp(-(_TRUNCATED**2) / 2) / math.sqrt(2 * math.pi) / _KEPT)


@torch.no_grad()
def why_not_drawn(weight: Tensor | Values, groups: int = 1) -> str:
    """Say why a weight is not an independent zero-mean draw (uniform, normal or truncated normal); empty if it may be.

    It tests the mean, the distribution (Kolmogorov-Smirnov distance to each of the three, and kurtosis), and the
    rows, columns and taps: whether they point in common directions, or are more orthogonal than chance allows, and
    how far their lengths differ.

    Args:
        weight: ``(out, in/groups, *kernel)``, on any device or already an array.
        groups: The groups of the layer; rows of different groups do not see the same inputs.

    Example:
        >>> why_not_drawn(torch.randn(16, 27, generator=torch.Generator().manual_seed(0)))
        ''
        >>> why_not_drawn(torch.nn.init.orthogonal_(torch.empty(16, 27)))
        'its rows are orthogonal'
        >>> why_not_drawn(torch.eye(8))
        'its values follow no uniform, normal or truncated normal distribution'
    """
    flat = weight.reshape(-1)
    if len(flat) < FEWEST:
        return f"its {len(flat)} weights are too few to judge"
    rows, ins = weight.shape[:2]
    by_group = weight.reshape(groups, rows // groups, -1)  # (groups, out/groups, in/groups * taps)
    taps = weight.reshape(rows * ins, -1).swapaxes(0, 1)[None] if len(weight.shape) > 2 else by_group[:0]
    parts = {"rows": _some(by_group), "columns": _some(by_group.swapaxes(1, 2)), "taps": _some(taps)}
    wanted: list[Any] = [flat[:: -(-len(flat) // MOST)], *(part.reshape(-1) for part in parts.values())]
    sample, *found = fetch(wanted) if isinstance(weight, Tensor) else wanted
    size = float(np.sqrt(np.square(sample).mean()))
    if not (math.isfinite(size) and size > 0):
        return "its weights are all zero" if size == 0 else "its weights are not finite"
    if abs(float(sample.mean())) > 6 * size / math.sqrt(len(sample)):
        return "the mean of its weights is not zero"
    kurtosis = float(((sample / size) ** 4).mean())
    heavy = kurtosis > 3 + _LARGE * math.sqrt(24 / len(sample))
    if heavy or not any(_fits(sample / size, law) for law in (_uniform, _normal, _truncated)):
        return "its values follow no uniform, normal or truncated normal distribution"
    for (what, part), values in zip(parts.items(), found, strict=True):
        structure = _structure(values.reshape(part.shape), kurtosis)
        if structure:
            return f"its {what} {structure}"
    return ""


def _some(vectors: Any) -> Any:
    """Some of the vectors of each group, ``(groups, vectors, entries)``, of a tensor or an array."""
    if min(vectors.shape) == 0:
        return vectors
    strides = [-(-size // most) for size, most in zip(vectors.shape, (ROWS, ROWS, MOST), strict=True)]
    return vectors[:: strides[0], :: strides[1], :: strides[2]]


def _fits(values: Values, law: Callable[[Values], Values]) -> bool:
    """Whether the distance to a distribution with deviation 1 is within chance."""
    expected = law(np.sort(values))
    steps = np.arange(len(values) + 1) / len(values)
    distance = float(np.maximum(np.abs(expected - steps[:-1]), np.abs(expected - steps[1:])).max())
    return 2 * math.exp(-2 * len(values) * distance**2) > 10 * SURE


def _uniform(values: Values) -> Values:
    return np.clip(values / (2 * math.sqrt(3)) + 0.5, 0, 1)


def _normal(values: Values) -> Values:
    law: Values = ndtr(values)
    return law


def _truncated(values: Values) -> Values:
    return np.clip((ndtr(values * _SHRUNK) - 0.5) / _KEPT + 0.5, 0, 1)


def _structure(some: Values, kurtosis: float) -> str:
    """What the vectors of each group, ``(groups, vectors, entries)``, have in common that random draws do not."""
    groups, count, entries = some.shape
    if min(some.shape) == 0 or count * groups < 2:
        return ""
    lengths = np.square(some).sum(2)
    if count > 1 and entries > 1 and (lengths > 0).all():
        unit = some / np.sqrt(lengths)[:, :, None]
        cosines = np.square(unit @ unit.transpose(0, 2, 1)) * entries
        pairs = groups * count * (count - 1) / 2
        # Pairwise independent, of mean 1 and variance 2 at most.
        total = float(cosines.sum() - np.trace(cosines, axis1=1, axis2=2).sum()) / 2
        if total < 1e-8 * pairs or _below(total, pairs):
            return "are orthogonal"
        if _above(total, pairs):
            return "point in common directions"
    if entries > 3:
        flat = lengths.ravel()
        expected = float(flat.mean()) ** 2 / entries * max(kurtosis - 1, 0.1)
        spread = float(np.square(flat - flat.mean()).sum()) / expected
        free, wide = len(flat) - 1, 2 / (2 + 12 / entries)  # squares of lengths are skewed where entries are few
        if spread < 1e-8 * free or _below(spread * wide, free * wide):
            return "are all of one length"
        if _above(spread * wide, free * wide):
            return "differ in length"
    return ""


def _below(value: float, free: float) -> bool:
    """Whether a sum of this many squared standard normal numbers is unlikely to be this small."""
    return float(gammainc(free / 2, value / 2)) < SURE


def _above(value: float, free: float) -> bool:
    return float(gammaincc(free / 2, value / 2)) < SURE
