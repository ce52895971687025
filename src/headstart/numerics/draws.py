"""Whether numbers look like independent draws of one zero-mean law, and by what they do not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEWEST = 32  # values: of fewer nothing can be told
MOST = 2**14  # values of a row, or of a test of the law: more cost more and tell no more
ROWS = 64  # rows of a group, and groups, that are compared with each other
SURE = 1e-6  # probability under which what was seen is not taken for chance
_LARGE = 8  # deviations that the kurtosis may lie above that of a normal law

_TRUNCATED = 2.0  # deviations at which a truncated normal law ends
_KEPT = math.erf(_TRUNCATED / math.sqrt(2))
_SHRUNK = math.sqrt(1 - 2 * _TRUNCATED * math.exp(-(_TRUNCATED**2) / 2) / math.sqrt(2 * math.pi) / _KEPT)


@torch.no_grad()
def why_not_drawn(weight: Tensor, groups: int = 1) -> str:
    """Say why a weight is not an independent zero-mean draw (uniform, normal or truncated normal); empty if it may be.

    Tried are the mean, the law (Kolmogorov and Smirnov's distance to each of the three, and the kurtosis), and the
    rows, columns and taps: how far they point in the same directions, or in fewer than chance would have it (orthogonal
    rows), and how far their lengths differ.

    Args:
        weight: ``(out, in/groups, *kernel)``.
        groups: Of the layer; rows of different groups do not see the same inputs.

    Example:
        >>> why_not_drawn(torch.randn(16, 27, generator=torch.Generator().manual_seed(0)))
        ''
        >>> why_not_drawn(torch.nn.init.orthogonal_(torch.empty(16, 27)))
        'its rows are orthogonal'
        >>> why_not_drawn(torch.eye(8))
        'its values are of no uniform, normal or truncated normal law'
    """
    flat = weight.detach().flatten()
    if len(flat) < FEWEST:
        return f"its {len(flat)} weights are too few to tell"
    sample = flat[:: -(-len(flat) // MOST)].double().cpu()
    size = float(sample.square().mean().sqrt())
    if not (math.isfinite(size) and size > 0):
        return "its weights are all zero" if size == 0 else "its weights are not finite"
    if abs(float(sample.mean())) > 6 * size / math.sqrt(len(sample)):
        return "the mean of its weights is not zero"
    kurtosis = float((sample / size).pow(4).mean())
    heavy = kurtosis > 3 + _LARGE * math.sqrt(24 / len(sample))
    if heavy or not any(_fits(sample / size, law) for law in (_uniform, _normal, _truncated)):
        return "its values are of no uniform, normal or truncated normal law"
    by_group = weight.detach().unflatten(0, (groups, -1)).flatten(2)  # (groups, out/groups, in/groups * taps)
    taps = weight.detach().flatten(2).movedim(2, 0).flatten(1).unsqueeze(0) if weight.dim() > 2 else by_group[:0]
    for what, vectors in (("rows", by_group), ("columns", by_group.transpose(1, 2)), ("taps", taps)):
        found = _structure(vectors, kurtosis)
        if found:
            return f"its {what} {found}"
    return ""


def _fits(values: Tensor, law: object) -> bool:
    """Whether the distance to a law of deviation 1 is one that chance gives."""
    ordered = values.sort().values
    expected = law(ordered)  # type: ignore[operator]
    steps = torch.arange(len(ordered) + 1, dtype=torch.float64) / len(ordered)
    distance = float(torch.maximum((expected - steps[:-1]).abs(), (expected - steps[1:]).abs()).max())
    return 2 * math.exp(-2 * len(ordered) * distance**2) > 10 * SURE


def _uniform(values: Tensor) -> Tensor:
    return (values / (2 * math.sqrt(3)) + 0.5).clamp(0, 1)


def _normal(values: Tensor) -> Tensor:
    return torch.special.ndtr(values)


def _truncated(values: Tensor) -> Tensor:
    return ((torch.special.ndtr(values * _SHRUNK) - 0.5) / _KEPT + 0.5).clamp(0, 1)


def _structure(vectors: Tensor, kurtosis: float) -> str:
    """What the vectors of each group, ``(groups, vectors, entries)``, have in common that draws have not."""
    groups, count, entries = vectors.shape
    if min(vectors.shape) == 0 or count * groups < 2:
        return ""
    strides = [max(1, -(-size // most)) for size, most in zip(vectors.shape, (ROWS, ROWS, MOST), strict=True)]
    some = vectors[:: strides[0], :: strides[1], :: strides[2]].double().cpu()
    groups, count, entries = some.shape
    lengths = some.square().sum(2)
    if count > 1 and entries > 1 and bool((lengths > 0).all()):
        unit = some / lengths.sqrt().unsqueeze(2)
        cosines = (unit @ unit.transpose(1, 2)).square() * entries
        pairs = groups * count * (count - 1) / 2
        # Pairwise independent, of mean 1 and variance 2 at most.
        total = float(cosines.sum() - cosines.diagonal(dim1=1, dim2=2).sum()) / 2
        if total < 1e-8 * pairs or _below(total, pairs):
            return "are orthogonal"
        if _above(total, pairs):
            return "point in common directions"
    if entries > 3:
        flat = lengths.flatten()
        expected = float(flat.mean()) ** 2 / entries * max(kurtosis - 1, 0.1)
        spread = float((flat - flat.mean()).square().sum()) / expected
        free, wide = len(flat) - 1, 2 / (2 + 12 / entries)  # squares of lengths are skewed where entries are few
        if spread < 1e-8 * free or _below(spread * wide, free * wide):
            return "are all of one length"
        if _above(spread * wide, free * wide):
            return "differ in length"
    return ""


def _below(value: float, free: float) -> bool:
    """Whether a sum of so many squares of standard normal numbers would hardly be so small."""
    half = torch.tensor([free / 2, value / 2], dtype=torch.float64)
    return float(torch.special.gammainc(half[0], half[1])) < SURE


def _above(value: float, free: float) -> bool:
    half = torch.tensor([free / 2, value / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1])) < SURE
