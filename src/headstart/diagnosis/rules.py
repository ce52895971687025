"""The rules of a diagnosis: thresholds, and what each says when it is crossed.

Every threshold is a constant of this module; ``docs/diagnose.md`` gives the reason for each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from headstart.diagnosis.health import Diagnosis
from headstart.diagnosis.parameters import duplicates, quiet_scales, starts_at_zero, tensors
from headstart.diagnosis.rows import Finding, LayerHealth
from headstart.model.weights import LAYERS

LOST = 1e-3  # across-sample deviation over total deviation, below which a layer hardly tells inputs apart
VANISHED = 1e-3  # output deviation, absolute and relative to the input's, below which activations vanish
EXPLODED = 1e3  # the same, above which they explode
SPREAD = 1e3  # largest over smallest gradient/weight ratio that one learning rate can serve
DEAD = 0.25  # share of a layer's units that may be dead
DEAD_VALUES = 32  # values per unit that it takes to call a unit dead

_WITHIN = 'hs.initialize(model, data, "within-layer")'


@dataclass
class Scene:
    """What the rules need beside the rows.

    Attributes:
        model: The model.
        normed: Layers whose output a normalization takes.
        batch_normed: Those where it is a batch norm, which also brings back what tells samples apart.
        unreached: Layers that the forward pass does not call.
        gradients_measured: Whether there was a backward pass.
        values: Values per channel behind each layer's share of units that are never positive.
    """

    model: nn.Module
    normed: set[str] = field(default_factory=set)
    batch_normed: set[str] = field(default_factory=set)
    unreached: set[str] = field(default_factory=set)
    gradients_measured: bool = False
    values: dict[str, int] = field(default_factory=dict)


def judge(diagnosis: Diagnosis, scene: Scene) -> list[Finding]:
    """Apply every rule, the worst first."""
    rows = diagnosis.rows
    found: list[Finding] = []
    found += _not_finite(rows, scene)
    found += _constant(rows)
    lost = _lost(diagnosis, scene)
    found += lost
    found += _scale(diagnosis, scene)
    found += _spread(diagnosis, scene)
    found += _no_gradient(rows, scene)
    found += _dead(rows, scene, {name for f in lost for name in f.layers})
    found += _duplicates(scene.model)
    found += _unused(rows, scene)
    return found


def _not_finite(rows: Sequence[LayerHealth], scene: Scene) -> list[Finding]:
    found = []
    bad = [n for n, t in tensors(scene.model) if not bool(torch.isfinite(t).all())]
    if bad:
        text = f"{_count(bad, 'weight tensor holds', 'weight tensors hold')} NaN or infinite values: {_some(bad)}."
        mend = f'load them again, or draw them anew: hs.initialize(model, method="default", include={_owners(bad)!r}).'
        found.append(Finding("not finite", tuple(bad), text, mend))
    broken = [r for r in rows if r.output_std is not None and not math.isfinite(r.output_std)]
    if broken:
        text = f"Activations are NaN or infinite from {broken[0].label} on ({len(broken)} of {len(rows)} layers)."
        mend = f"{_WITHIN}; in half precision check the range of the inputs." if not bad else "the weights above first."
        found.append(Finding("not finite", _names(broken), text, mend))
    wild = [r for r in rows if r.gradient_rms is not None and not math.isfinite(r.gradient_rms)]
    if wild and not broken and not bad:
        text = f"Gradients are NaN or infinite in {_layers(wild)}, although activations are finite."
        found.append(Finding("not finite", _names(wild), text, f"{_WITHIN}, or a wider precision."))
    return found


def _constant(rows: Sequence[LayerHealth]) -> list[Finding]:
    same = [r for r in rows if r.weight_std == 0 and "starts at zero" not in r.notes and math.prod(r.shape) > 1]
    if not same:
        return []
    text = f"All weights of {_layers(same)} are equal: its units start as copies and stay copies."
    mend = f'hs.initialize(model, method="default", include={list(_names(same))!r}).'
    return [Finding("constant weights", _names(same), text, mend)]


def _lost(diagnosis: Diagnosis, scene: Scene) -> list[Finding]:
    limit = LOST
    if diagnosis.input_std and diagnosis.input_across_sample_std is not None:
        limit *= min(1.0, diagnosis.input_across_sample_std / diagnosis.input_std)  # inputs that hardly differ
    looked_at = [r for r in diagnosis.rows if _alive(r) and r.name not in scene.batch_normed]
    lost = [r for r in looked_at if _share(r) < limit]
    if not lost:
        return []
    worst = min(lost, key=_share)
    text = (
        f"Signals are lost from {lost[0].label} on ({len(lost)} of {len(diagnosis.rows)} layers): in {worst.label} the"
        f" output's deviation is {worst.output_std:.2g}, but only {worst.across_sample_std:.2g} of it tells inputs"
        " apart; the rest is the same for every sample (biases)."
    )
    return [Finding("signals lost", _names(lost), text, f"{_WITHIN}.")]


def _alive(r: LayerHealth) -> bool:
    known = r.output_std is not None and r.across_sample_std is not None and math.isfinite(r.output_std)
    return known and bool(r.output_std) and "starts at zero" not in r.notes


def _share(r: LayerHealth) -> float:
    assert r.across_sample_std is not None
    assert r.output_std
    return r.across_sample_std / r.output_std


def _scale(diagnosis: Diagnosis, scene: Scene) -> list[Finding]:
    relative = diagnosis.input_std or 1.0
    free = [
        (r, r.output_std)
        for r in diagnosis.rows
        if r.output_std is not None
        and math.isfinite(r.output_std)
        and r.name not in scene.normed
        and "starts at zero" not in r.notes
    ]
    small = [(r, s) for r, s in free if s < VANISHED * min(1.0, relative)]
    large = [(r, s) for r, s in free if s > EXPLODED * max(1.0, relative)]
    found = []
    for word, group, pick in (("vanish", small, min), ("explode", large, max)):
        if group:
            worst, std = pick(group, key=lambda pair: pair[1])
            text = (
                f"Activations {word} from {group[0][0].label} on ({len(group)} of {len(diagnosis.rows)} layers):"
                f" the output's deviation reaches {std:.2g} in {worst.label}."
            )
            found.append(Finding(f"activations {word}", tuple(r.name for r, _ in group), text, f"{_WITHIN}."))
    return found


def _spread(diagnosis: Diagnosis, scene: Scene) -> list[Finding]:
    free = [r for r in diagnosis.rows if r.name not in scene.normed]  # a normalization takes the scale away
    rated = [(r.gradient_ratio, r) for r in free if r.gradient_ratio and math.isfinite(r.gradient_ratio)]
    if not rated:
        return []
    (low, slow), (high, fast) = (pick(rated, key=lambda pair: pair[0]) for pick in (min, max))
    if high <= SPREAD * low:
        return []
    rates = f"the gradient/weight ratio is {low:.1e} in {slow.label} and {high:.1e} in {fast.label}"
    if quiet := quiet_scales(scene.model):
        diagnosis.notes.append(f"Of layers without normalization {rates}, with branches that start small: {quiet[0]}.")
        return []
    text = (
        f"Layers learn at rates that differ by a factor of {high / low:.1e}: {rates}, more than one learning rate can"
        " serve."
    )
    return [Finding("gradient spread", (slow.name, fast.name), text, f"{_WITHIN}.")]


def _no_gradient(rows: Sequence[LayerHealth], scene: Scene) -> list[Finding]:
    cut = [r for r in rows if r.gradient_rms == 0 or (r.gradient_rms is None and r.output_std is not None)]
    if not cut or not scene.gradients_measured:
        return []
    if starts_at_zero(scene.model):
        for r in cut:
            r.notes.append("no gradient yet: something starts at zero")
        return []
    text = f"No gradient reaches {_layers(cut)}: nothing would teach {'it' if len(cut) == 1 else 'them'}."
    mend = f"check forward() for detach() and no_grad(); if all units behind are dead, {_WITHIN}."
    return [Finding("no gradient", _names(cut), text, mend)]


def _dead(rows: Sequence[LayerHealth], scene: Scene, lost: set[str]) -> list[Finding]:
    dead = [
        (r, r.never_positive)
        for r in rows
        if r.rectified
        and r.never_positive is not None
        and r.never_positive > DEAD
        and scene.values.get(r.name, 0) >= DEAD_VALUES
        and r.name not in lost
    ]
    if not dead:
        return []
    worst, share = max(dead, key=lambda pair: pair[1])
    text = (
        f"{share:.0%} of the units of {worst.label} are dead: their ReLU is zero for every sample"
        f" ({_count(dead, 'layer has', 'layers have')} more than {DEAD:.0%} of such units)."
    )
    return [Finding("dead units", tuple(r.name for r, _ in dead), text, f"{_WITHIN}.")]


def _duplicates(model: nn.Module) -> list[Finding]:
    groups = duplicates(model)
    if not groups:
        return []
    names = tuple(n for group in groups for n in group)
    text = (
        f"{len(names)} parameters are bit for bit copies of each other and not tied, in {len(groups)} groups such as"
        f" {_some(groups[0])}: layers that start alike."
    )
    modules = dict(model.named_modules())
    layers = [n for n in _owners(names) if isinstance(modules.get(n), LAYERS)]
    others = [n for n in _owners(names) if n not in layers]
    mends = []
    if layers:
        mends.append(
            f'hs.initialize(model, method="default", include={layers[:4]!r})' + (" and so on" * (len(layers) > 4))
        )
    if others:
        mends.append(f"reset_parameters() of {_some(others)}")
    return [Finding("duplicates", names, text, f"draw them anew: {'; '.join(mends)}.")]


def _unused(rows: Sequence[LayerHealth], scene: Scene) -> list[Finding]:
    idle = [r for r in rows if r.name in scene.unreached and r.gradient_rms is None]
    if not idle:
        return []
    sure = "" if scene.gradients_measured else " as a module (gradients, which would tell for sure, were not measured)"
    text = f"The forward pass never uses {_layers(idle)}{sure}, at least in evaluation mode."
    mend = "remove what is not needed, or check forward(); heads for training only are well."
    return [Finding("unused layers", _names(idle), text, mend)]


def _names(rows: Sequence[LayerHealth]) -> tuple[str, ...]:
    return tuple(r.name for r in rows)


def _owners(names: Iterable[str]) -> list[str]:
    """Modules that own parameters, each once."""
    plain = (n.split(".parametrizations.")[0] if ".parametrizations." in n else n.rpartition(".")[0] for n in names)
    return list(dict.fromkeys(plain))


def _layers(rows: Sequence[LayerHealth]) -> str:
    return f"{len(rows)} layers ({_some(r.name for r in rows)})" if len(rows) > 1 else rows[0].label


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(f"'{n}'" for n in listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def _count(items: Sequence[object], one: str, many: str) -> str:
    return f"{len(items)} {one if len(items) == 1 else many}"
