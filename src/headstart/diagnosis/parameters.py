"""What parameters alone tell: copies of each other, branches that start silent or small."""

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
    """Parameters by name, each once; those of lazy modules have no values yet and are left out."""
    return ((n, p) for n, p in model.named_parameters() if not is_lazy(p))


@torch.no_grad()
def duplicates(model: nn.Module) -> list[list[str]]:
    """Group parameters that are bitwise the same without sharing memory; constants (zero biases) do not count.

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
    for key, members in alike.items():
        for name, p in members if len(members) > 1 else ():
            if bool((p != p.flatten()[0]).any()):
                data = p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                digest = hashlib.blake2b(data, key=repr(key).encode()[:64]).digest()
                groups.setdefault(digest, []).append((name, p.data_ptr()))
    return [[n for n, _ in group] for group in groups.values() if len({place for _, place in group}) > 1]


def starts_at_zero(model: nn.Module) -> bool:
    """Tell whether a branch starts silent on purpose.

    That is, whether the weight or gain of a layer or normalization is all zero, or a single free number is, as
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
    """A module's own parameters that multiply: all but biases."""
    return [p for n, p in module.named_parameters(recurse=False) if "bias" not in n]


def quiet_scales(model: nn.Module) -> list[str]:
    """Names of parameters that scale a branch down on purpose, such as LayerScale's 1e-6: small constants.

    Example:
        >>> block = nn.Linear(4, 4)
        >>> block.gamma = nn.Parameter(torch.full((4,), 1e-6))
        >>> quiet_scales(block)
        ['gamma']
    """
    free = ((n, p) for n, p in tensors(model) if p.numel() > 1 and "bias" not in n.rpartition(".")[2])
    return [
        n for n, p in free if 0 < abs(float(p.detach().flatten()[0])) <= QUIET and bool((p == p.flatten()[0]).all())
    ]
