"""Facts from parameters alone: copies of each other, branches that start at zero or small."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headstart.model.norms import is_norm
from headstart.model.weights import LAYERS

QUIET = 0.01  # a parameter of one value up to this is a branch scaled down on purpose


def tensors(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Parameters by name, each once, without those that have no values (lazy, or without memory)."""
    return ((n, p) for n, p in model.named_parameters() if not is_lazy(p) and _has_memory(p))


@torch.no_grad()
def extremes(model: nn.Module) -> tuple[list[str], dict[str, float]]:
    """Find values that no network can use.

    Buffers count if they hold NaN; those of norms also if they are infinite. Masks hold infinity on purpose.

    Returns:
        Names of tensors that are not finite, and the largest magnitudes of the others.

    Example:
        >>> norm = nn.LayerNorm(2)
        >>> _ = nn.init.constant_(norm.bias, float("nan"))
        >>> extremes(norm)
        (['bias'], {'weight': 1.0})
    """
    statistics = {id(b) for m in model.modules() if is_norm(m) for b in m.buffers(recurse=False)}
    broken, largest = [], {}
    for name, t in (*tensors(model), *model.named_buffers()):
        if not (t.is_floating_point() or t.is_complex()) or not t.numel() or not _has_memory(t):
            continue
        counts = isinstance(t, nn.Parameter) or id(t) in statistics
        if bool(t.isnan().any()) or (counts and not bool(t.isfinite().all())):
            broken.append(name)
        elif counts:
            largest[name] = float(t.detach().abs().max())
    return broken, largest


def _has_memory(t: Tensor) -> bool:
    """Whether a tensor's values can be read: a forward may have released their memory, and reading would crash."""
    if t.layout is not torch.strided:
        return True
    last = t.storage_offset() + sum((size - 1) * step for size, step in zip(t.shape, t.stride(), strict=True))
    return (last + 1) * t.element_size() <= t.untyped_storage().nbytes()


@torch.no_grad()
def duplicates(model: nn.Module) -> list[list[str]]:
    """Group parameters that are equal bit for bit but do not share memory.

    Tensors that were not drawn do not count: constants such as zero biases, and tensors with few different values such
    as an identity.

    Example:
        >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        >>> ["layers.0.linear1.weight", "layers.1.linear1.weight"] in duplicates(encoder)
        True
    """
    alike: dict[tuple[object, ...], list[tuple[str, Tensor]]] = {}
    for name, p in tensors(model):
        if p.numel() > 1:
            alike.setdefault((p.dtype, tuple(p.shape)), []).append((name, p))
    groups: dict[bytes, list[tuple[str, int]]] = {}
    for key, members in sorted(alike.items(), key=lambda item: -item[1][0][1].numel()):  # the largest first
        for name, p in members if len(members) > 1 else ():
            if _drawn(p):
                data = p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                digest = hashlib.blake2b(data, key=repr(key).encode()[:64]).digest()
                groups.setdefault(digest, []).append((name, p.data_ptr()))
    return [[n for n, _ in group] for group in groups.values() if len({place for _, place in group}) > 1]


def _drawn(p: Tensor) -> bool:
    """Whether the values look like a random draw: many of them differ."""
    some = p.detach().flatten()[:4096]
    return some.unique().numel() > min(len(some) / 2, 64)


def starts_at_zero(model: nn.Module) -> bool:
    """Tell whether a branch starts at zero on purpose.

    This is so if the weight or gain of a layer or normalization is all zero, or a single scalar parameter, as
    in ReZero and SkipInit.

    Example:
        >>> block = nn.Linear(4, 4)
        >>> starts_at_zero(block)
        False
        >>> block.alpha = nn.Parameter(torch.zeros(1))
        >>> starts_at_zero(block)
        True
    """
    scaling = {id(p) for m in model.modules() if isinstance(m, LAYERS) or is_norm(m) for p in scales(m)}
    return any(not bool(p.any()) for _, p in tensors(model) if id(p) in scaling or p.numel() == 1)


def scales(module: nn.Module) -> list[Tensor]:
    """A module's own parameters that multiply: all except biases."""
    return [p for n, p in module.named_parameters(recurse=False) if "bias" not in n]


def quiet_scales(model: nn.Module) -> list[str]:
    """Names of small constant parameters that scale a branch down on purpose, such as LayerScale's 1e-6.

    Example:
        >>> block = nn.Linear(4, 4)
        >>> block.gamma = nn.Parameter(torch.full((4,), 1e-6))
        >>> quiet_scales(block)
        ['gamma']
    """
    free = ((n, p) for n, p in tensors(model) if p.numel() > 1 and "bias" not in n.rpartition(".")[2])
    return [
        n for n, p in free if 0 < float(p.detach().flatten()[0].abs()) <= QUIET and bool((p == p.flatten()[0]).all())
    ]
