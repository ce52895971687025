"""Memory that looks uninitialized, as ``model.to_empty`` leaves it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headstart.model.norms import is_norm
from headstart.numerics.fetching import fetch

HUGE, TINY = 1e6, 1e-37  # magnitudes beyond which no norm's or embedding's tensor is found
_SHOWN = 3


@torch.no_grad()
def unwritten(model: nn.Module) -> list[str]:
    """Name tensors of norms and embeddings with values that nobody writes: NaN, extreme numbers, zero variance.

    Uninitialized memory may also look like plausible values, so this finds only some of it.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> norm.running_var.zero_().tolist(), unwritten(norm)
        ([0.0, 0.0], ['running_var'])
    """
    kinds: dict[tuple[torch.device, torch.dtype], list[tuple[str, Tensor]]] = {}
    for name, module in model.named_modules():
        if not (is_norm(module) or isinstance(module, nn.Embedding)):
            continue
        for own, t in [*module._parameters.items(), *module._buffers.items()]:
            if t is None or type(t) not in (Tensor, nn.Parameter) or is_lazy(t):
                continue
            if t.is_floating_point() and t.numel() and not t.is_meta and t.layout is torch.strided:
                kinds.setdefault((t.device, t.dtype), []).append((f"{name}.{own}".lstrip("."), t))
    names = [name for members in kinds.values() for name, _ in members]
    sizes = [n for members in kinds.values() for n in torch._foreach_norm([t for _, t in members], math.inf)]
    found = zip(names, (float(size[0]) for size in fetch(sizes)), strict=True)
    return [name for name, size in found if _nobodys(size, name.endswith("running_var"))]


def warning(names: list[str]) -> str:
    """A sentence that names them; empty if there are none."""
    if not names:
        return ""
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    what = "1 tensor of a norm or an embedding looks" if len(names) == 1 else f"{len(names)} tensors look"
    return (
        f"{what} like uninitialized memory ({shown}). That happens after model.to_empty: call"
        " hs.materialize(model) on the meta-device model instead, or load a checkpoint."
    )


def _nobodys(size: float, variance: bool) -> bool:
    if variance:
        return not 0 < size < math.inf or size < TINY
    return not size < HUGE or 0 < size < TINY
