"""Numbers from a device, all in one read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[np.float64]


@torch.no_grad()
def fetch(tensors: Sequence[Tensor]) -> list[Values]:
    """Bring tensors with at most one axis to numpy, in one read for each device."""
    groups: dict[tuple[torch.device, bool, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dim() == 0, tensor.dtype), []).append(i)
    on_device: dict[torch.device, list[tuple[list[int], Tensor]]] = {}
    for (device, single, _), members in groups.items():
        alone = len(members) == 1 and tensors[members[0]].dtype != torch.float64  # which is copied below
        whole = tensors[members[0]] if alone else (torch.stack if single else torch.cat)([tensors[i] for i in members])
        on_device.setdefault(device, []).append((members, whole.double()))
    found: list[Values] = [np.empty(0)] * len(tensors)
    for parts in on_device.values():
        whole = parts[0][1] if len(parts) == 1 else torch.cat([whole.reshape(-1) for _, whole in parts])
        numbers = whole.numpy(force=True).reshape(-1)
        place = 0
        for members, _ in parts:
            for i in members:
                found[i] = numbers[place : place + tensors[i].numel()]
                place += tensors[i].numel()
    return found
