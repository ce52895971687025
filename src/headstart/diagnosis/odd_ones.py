"""Exceptions: a block without the norm that all others have, a layer scaled by the other fan."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from statistics import median

from torch import nn

from headstart.diagnosis.rows import LayerHealth
from headstart.model.norms import is_norm

PEERS = 4  # how many must agree before one that differs says anything
AGREE = 0.1  # logarithm of a scale, up to which two draws follow one rule
APART = 0.8  # logarithm of fan_in over fan_out, from which the two rules differ by half
FEW_VALUES = 256  # weights, below which a layer's deviation is too uncertain


def blocks_without_norm(model: nn.Module) -> list[tuple[str, str, int]]:
    """Find a block without a norm that all similar blocks have.

    Blocks are the children of one module whose names differ only in a number (``0``, ``denselayer1``) and that have the
    same class and otherwise the same parts.

    Returns:
        The block's name, the norm's name inside it, and how many blocks have it.

    Example:
        >>> def block(norm):
        ...     return nn.ModuleDict({"conv": nn.Conv2d(3, 3, 1), "norm": norm})
        >>> net = nn.ModuleList([block(nn.BatchNorm2d(3) if i != 2 else nn.Identity()) for i in range(6)])
        >>> blocks_without_norm(net)
        [('2', 'norm', 5)]
    """
    found = []
    for name, module in model.named_modules():
        kinds: dict[tuple[type, str], list[tuple[str, nn.Module]]] = defaultdict(list)
        for key, child in module.named_children():
            numbered = re.sub(r"\d+", "#", key)
            if numbered != key:
                kinds[type(child), numbered].append((f"{name}.{key}" if name else key, child))
        for blocks in kinds.values():
            norms = {block: {n for n, m in child.named_modules() if n and is_norm(m)} for block, child in blocks}
            parts = {block: {n for n, _ in child.named_modules()} for block, child in blocks}
            for inner in sorted(set().union(*norms.values())):
                without = [block for block, names in norms.items() if inner not in names]
                if len(without) == 1 and len(blocks) > PEERS:
                    rest = parts[without[0]] | {inner}
                    alike = sum(inner in norms[block] and parts[block] == rest for block, _ in blocks)
                    if alike >= PEERS:
                        found.append((without[0], inner, alike))
    return found


def layers_without_norm(rows: Sequence[LayerHealth], normed: set[str], aside: set[str]) -> list[tuple[str, int]]:
    """Find a layer without a norm behind it, although all similar layers at the same place in other blocks have one.

    Also find the only such convolution of a network, not counting the first and depthwise ones.

    Args:
        rows: The rows of the diagnosis.
        normed: Names of the layers that a norm follows.
        aside: Names of layers that do not count: output layers, and layers after a global pooling.

    Returns:
        The layer's name, and how many other layers have a norm.
    """
    alike: dict[tuple[str, str, int], list[LayerHealth]] = defaultdict(list)
    for r in rows:
        if r.output_std is not None and r.name not in aside:
            alike[re.sub(r"\d+", "#", r.name), r.kind, len(r.shape)].append(r)
    groups = [(group, PEERS) for group in alike.values()]
    measured = [r for r in rows if r.output_std is not None]
    convolutions = [r for r in measured[1:] if len(r.shape) > 2 and r.shape[1] > 1]
    groups.append(([r for r in convolutions if r.name not in aside], 2 * PEERS - 1))
    found: dict[str, int] = {}
    for group, peers in groups:
        without = [r for r in group if r.name not in normed]
        have = len(group) - len(without)
        if len(without) == 1 and have >= peers:
            found.setdefault(without[0].name, have)
    return list(found.items())


def drawn_by_other_fan(
    rows: Sequence[LayerHealth], transposed: Collection[str] = ()
) -> list[tuple[LayerHealth, str, float]]:
    """Find layers whose scale follows another fan than all other layers of their kind.

    Linear layers, convolutions and transposed convolutions are three kinds: torch draws a transposed convolution as if
    its weight were a convolution's, so its scale follows the other fan.

    Args:
        rows: The rows of the diagnosis.
        transposed: Names of the transposed convolutions.

    Returns:
        The layer, the fan that the others follow (``"in"`` or ``"out"``), and the factor by which its weights differ.

    Example:
        >>> def row(name, i, o, std):
        ...     return LayerHealth(name, "Linear", (o, i), i, o, weight_std=std)
        >>> sizes = [(64, 256), (256, 64), (64, 512), (512, 32), (32, 256)]
        >>> rows = [row(str(k), i, o, i**-0.5) for k, (i, o) in enumerate(sizes)] + [row("odd", 512, 32, 32**-0.5)]
        >>> [(r.name, fan, round(factor, 1)) for r, fan, factor in drawn_by_other_fan(rows)]
        [('odd', 'in', 4.0)]
    """
    kinds: dict[tuple[bool, bool], list[LayerHealth]] = defaultdict(list)
    for r in rows:
        apart = abs(math.log(r.fan_in / r.fan_out)) >= APART  # where the fans tell the rules apart
        if r.weight_std and math.prod(r.shape) >= FEW_VALUES and apart:
            kinds[len(r.shape) == 2, r.name in transposed].append(r)
    found = []
    for told in kinds.values():
        if len(told) <= PEERS:
            continue
        for fan, other in (("in", "out"), ("out", "in")):
            gains = {r.name: _gain(r, fan) for r in told}
            middle = median(gains.values())
            odd = [r for r in told if abs(gains[r.name] - middle) > AGREE]
            swapped = [r for r in odd if abs(_gain(r, other) - middle) <= AGREE]
            if odd and len(odd) == len(swapped) <= max(1, len(told) // PEERS // 2):
                found += [(r, fan, math.exp(gains[r.name] - middle)) for r in swapped]
                break
    return found


def _gain(r: LayerHealth, fan: str) -> float:
    assert r.weight_std
    return math.log(r.weight_std) + 0.5 * math.log(r.fan_in if fan == "in" else r.fan_out)
