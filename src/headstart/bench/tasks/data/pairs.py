"""Pairs of CIFAR-100's superclasses: those of filter clustering's authors, and disjoint ones drawn by a seed."""

from __future__ import annotations

import itertools
import random

import torch

from headstart.rng import generator

Pair = tuple[int, int]


def published_evaluation() -> list[Pair]:
    """Return the ten pairs of superclasses 10 to 19 on which starts were evaluated.

    They are drawn as the authors drew them, with Python's generator at seed 1234. They overlap: superclass 10
    is in five of them, 14 in none.

    Example:
        >>> published_evaluation()[:4]
        [(10, 11), (10, 13), (10, 16), (10, 17)]
    """
    draw = random.Random(1234)  # noqa: S311 - the authors' generator
    return sorted(draw.sample(list(itertools.combinations(range(10, 20), 2)), 10))


def disjoint(seed: int) -> list[Pair]:
    """Draw ten pairs without common superclasses: pairs 0 to 4 for sources, 5 to 9 for evaluation.

    Example:
        >>> sorted(sum(disjoint(0), ())) == list(range(20))
        True
    """
    order = torch.randperm(20, generator=generator(seed, "superclass-pairs")).tolist()
    return [(min(a, b), max(a, b)) for a, b in zip(order[::2], order[1::2], strict=True)]
