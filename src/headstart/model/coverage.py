"""How much of a model's weights lie outside the treated layers, and in which kinds of modules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from torch import nn
from torch.nn.parameter import is_lazy

from headstart.model.norms import is_norm
from headstart.model.weights import Layer

_SHOWN = 4


def outside(model: nn.Module, layers: Iterable[Layer]) -> dict[str, float]:
    """Shares of the model's weights that lie outside some layers, by the kind of module that holds them.

    Weights are parameters of two or more dimensions, except those of normalizations. Biases and gains do not count. A
    tied weight counts once, with the layer if one holds it.

    Args:
        model: Any model.
        layers: The treated layers.

    Returns:
        Share by module type, the largest first.

    Example:
        >>> net = nn.Sequential(nn.Embedding(30, 10), nn.Linear(10, 10))
        >>> outside(net, [Layer("1", net[1])])
        {'Embedding': 0.75}
    """
    seen = {id(p) for layer in layers for p in layer.weight_parameters()}
    total, found = 0, Counter[str]()
    counted: set[int] = set()
    modules = dict(model.named_modules())
    for name, module in modules.items():
        owner = modules[f".{name}".partition(".parametrizations.")[0].lstrip(".")]
        for p in module._parameters.values():
            if p is None or is_lazy(p) or p.dim() < 2 or id(p) in counted or is_norm(owner):
                continue
            counted.add(id(p))
            total += p.numel()
            if id(p) not in seen:
                found[type(owner).__name__.removeprefix("Parametrized")] += p.numel()
    return {kind: size / total for kind, size in found.most_common()}


def unseen(model: nn.Module, layers: Iterable[Layer]) -> str:
    """A sentence on these shares; empty if the layers hold all weights.

    Example:
        >>> net = nn.Sequential(nn.Embedding(30, 10), nn.Linear(10, 10))
        >>> unseen(net, [Layer("1", net[1])])
        '75 % of the weights are in modules that headstart does not treat: Embedding.'
    """
    shares = outside(model, layers)
    if not shares:
        return ""
    whole = math.fsum(shares.values())
    kinds = [f"{kind} ({_percent(share)})" if len(shares) > 1 else kind for kind, share in shares.items()]
    more = f" and {len(kinds) - _SHOWN} more kinds" if len(kinds) > _SHOWN else ""
    listed = ", ".join(kinds[:_SHOWN])
    return f"{_percent(whole)} of the weights are in modules that headstart does not treat: {listed}{more}."


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %") if share >= 0.005 else "less than 1 %"
