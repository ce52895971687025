"""Illnesses planted into networks: each takes a model, makes it ill in one place, and names the place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

import headstart as hs
from headstart.diagnosis.rows import LayerHealth
from headstart.model.norms import is_norm
from headstart.model.weights import LAYERS


class Planted:
    """A model made ill.

    Args:
        model: The model.
        x: Its inputs.
        culprits: Names, of which a finding must name one first.
        kinds: Of findings that are right.
    """

    def __init__(self, model: nn.Module, x: Tensor, culprits: Sequence[str], *kinds: str) -> None:
        self.model, self.x, self.culprits, self.kinds = model, x, list(culprits), kinds

    def hit(self, found: hs.Diagnosis) -> str:
        """``"hit"``, ``"other culprit"`` or ``"missed"``."""
        right = [f for f in found.findings if f.kind in self.kinds]
        if any(f.layers[0] in self.culprits for f in right):
            return "hit"
        return "other culprit" if right else "missed"


class LabelFree(nn.Module):
    """A model whose last step takes the mean over the batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Every sample gets the same output."""
        value: Tensor = self.model(x)
        return value.mean(0, keepdim=True).expand_as(value)


def dead(model: nn.Module, x: Tensor, healthy: hs.Diagnosis) -> Planted | None:
    """Biases that keep a ReLU shut."""
    row = _middle([r for r in healthy.rows if r.rectified and not r.never_positive])
    if row is None:
        return None
    layer = model.get_submodule(row.name)
    norm = _norm_behind(model, row.name)
    target = getattr(norm, "bias", None) if norm is not None else layer.bias
    if not isinstance(target, Tensor):
        return None
    nn.init.constant_(target, -1000.0)
    return Planted(model, x, [row.name, *_parameters(model, target)], "dead units", "huge values")


def exploding(model: nn.Module, x: Tensor, healthy: hs.Diagnosis) -> Planted | None:
    """Outputs of one layer with a deviation of 10,000, where no norm takes the scale away."""
    free = [r for r in healthy.rows if r.output_std and _norm_behind(model, r.name) is None]
    row = _middle(free[1:-1])
    if row is None:
        return None
    weight = model.get_submodule(row.name).weight
    with torch.no_grad():
        weight.mul_(1e4 / (row.output_std or 1.0))
    return Planted(
        model, x, [row.name, *_parameters(model, weight)], "activations explode", "huge values", "not finite"
    )


def swapped(model: nn.Module, x: Tensor, healthy: hs.Diagnosis) -> Planted | None:
    """The weights of one layer scaled by the other fan, where at least six layers follow one that tells them apart."""
    for linear in (True, False):
        rows = [r for r in healthy.rows if r.weight_std and (len(r.shape) == 2) is linear]
        told = [r for r in rows[:-1] if not 0.4 < r.fan_in / r.fan_out < 2.5 and math.prod(r.shape) >= 256]
        for by, other in (("fan_in", "fan_out"), ("fan_out", "fan_in")):
            gains = [r.weight_std * math.sqrt(getattr(r, by)) for r in told if r.weight_std]
            if len(gains) > 5 and max(gains) < 1.2 * min(gains):
                row = told[len(told) // 2]
                with torch.no_grad():
                    model.get_submodule(row.name).weight.mul_(math.sqrt(getattr(row, by) / getattr(row, other)))
                return Planted(model, x, [row.name], "swapped fan")
    return None


def without_norm(model: nn.Module, x: Tensor, healthy: hs.Diagnosis) -> Planted | None:
    """One norm less."""
    norms = [n for n, m in model.named_modules() if n and is_norm(m)]
    if len(norms) < 6:
        return None
    name = norms[len(norms) // 2]
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, nn.Identity())
    before = [r.name for r in healthy.rows if r.name.rpartition(".")[0] == parent]
    above = [name.rsplit(".", k)[0] for k in range(1, name.count(".") + 1)]
    return Planted(model, x, [*above, *before], "missing norm")


def saturated(model: nn.Module, x: Tensor, healthy: hs.Diagnosis) -> Planted | None:
    """A layer before a sigmoid or tanh, a million times too large."""
    row = _middle([r for r in healthy.rows if r.saturated is not None and r.output_std])
    if row is None:
        return None
    with torch.no_grad():
        model.get_submodule(row.name).weight.mul_(1e3 / row.output_std)
    return Planted(model, x, [row.name], "saturated units")


def nan_in_norm(model: nn.Module, x: Tensor, healthy: hs.Diagnosis) -> Planted | None:
    """One value of one norm."""
    norms = [n for n, m in model.named_modules() if is_norm(m) and isinstance(getattr(m, "weight", None), nn.Parameter)]
    if not norms:
        return None
    name = f"{norms[len(norms) // 2]}.weight"
    with torch.no_grad():
        model.get_parameter(name)[0] = math.nan
    return Planted(model, x, [name], "not finite")


def clones(model: nn.Module, x: Tensor, healthy: hs.Diagnosis) -> Planted | None:
    """Two layers of one shape that start alike."""
    shapes: dict[object, list[str]] = {}
    for r in healthy.rows:
        if r.weight_std and r.output_std is not None:
            shapes.setdefault((r.kind, r.shape), []).append(r.name)
    twins = max(shapes.values(), key=len, default=[])
    if len(twins) < 2:
        return None
    first, second = (model.get_submodule(n) for n in twins[:2])
    if not isinstance(first, LAYERS) or len(list(first.parameters())) != len(list(second.parameters())):
        return None
    with torch.no_grad():
        for mine, its in zip(second.parameters(), first.parameters(), strict=True):
            mine.copy_(its)
    return Planted(model, x, [f"{n}.weight" for n in twins[:2]], "duplicates")


def constant_channel(model: nn.Module, x: Tensor, healthy: hs.Diagnosis) -> Planted | None:
    """A channel of the images that never changes."""
    x = x.clone()
    x[:, 1] = 0.3
    return Planted(model, x, ["1"], "constant channel")


def label_free(model: nn.Module, x: Tensor, healthy: hs.Diagnosis) -> Planted | None:
    """An output that is the same for all samples, though the last layer's is not."""
    with torch.no_grad():
        if not bool(model.eval()(x[:2]).any()):  # a head that starts at zero
            return None
    ends = [f"model.{r.name}" for r in healthy.rows if r.output_std is not None][-2:]
    return Planted(LabelFree(model), x, ends, "constant output")


ILLNESSES: Mapping[str, Callable[[nn.Module, Tensor, hs.Diagnosis], Planted | None]] = {
    "dead layer": dead,
    "exploding branch": exploding,
    "swapped fan": swapped,
    "missing norm": without_norm,
    "saturated sigmoid": saturated,
    "NaN in a norm": nan_in_norm,
    "clones": clones,
    "constant input channel": constant_channel,
    "label-free output": label_free,
}


def _middle(rows: Sequence[LayerHealth]) -> LayerHealth | None:
    return rows[len(rows) // 2] if rows else None


def _parameters(model: nn.Module, tensor: Tensor) -> list[str]:
    return [n for n, p in model.named_parameters() if p is tensor]


def _norm_behind(model: nn.Module, name: str) -> nn.Module | None:
    """The norm that is listed right behind a layer."""
    listed = [(n, m) for n, m in model.named_modules() if is_norm(m) or not list(m.children())]
    place = [n for n, _ in listed].index(name)
    behind = listed[place + 1][1] if place + 1 < len(listed) else None
    return behind if behind is not None and is_norm(behind) else None
