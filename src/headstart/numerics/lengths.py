"""Lengths, largest values and differences of many tensors, in one operation for each device and format."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def lengths(tensors: Sequence[Tensor], order: float = 2.0) -> list[Tensor]:
    """Norm of every tensor over all its values, in float32 or better, still on the device.

    Args:
        tensors: Tensors of any shape, device and floating format.
        order: The order of the norm; infinity for the largest magnitude.

    Example:
        >>> [float(length) for length in lengths([torch.tensor([3.0, 4.0]), torch.tensor([[2.0]])])]
        [5.0, 2.0]
    """
    found = [torch.zeros(())] * len(tensors)  # that of no values
    for members in _alike(tensors):
        some = [tensors[i] for i in members]
        if some[0].dtype not in (torch.float32, torch.float64):  # their sums of squares would not fit
            some = [tensor.float() for tensor in some]
        for i, norm in zip(members, torch._foreach_norm(some, order), strict=True):
            found[i] = norm
    return found


@torch.no_grad()
def differences(some: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """Differences of tensors in pairs, each pair of one shape, device and format."""
    found = list(some)
    for members in _alike(some):
        apart = torch._foreach_sub([some[i] for i in members], [others[i] for i in members])
        for i, difference in zip(members, apart, strict=True):
            found[i] = difference
    return found


def _alike(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the tensors that have values, by device and format."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        if tensor.numel():
            groups.setdefault((tensor.device, tensor.dtype), []).append(i)
    return list(groups.values())


def largest(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Largest magnitude of every tensor; NaN if one of its values is."""
    return lengths(tensors, math.inf)
