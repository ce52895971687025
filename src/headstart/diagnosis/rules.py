"""The rules of a diagnosis: their thresholds, and their sentences.

Every threshold is a constant of this module or of its neighbours; ``docs/diagnose.md`` gives the reason for each,
and ``docs/results/diagnoses.md`` says how often they are right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from headstart.diagnosis.health import Diagnosis
from headstart.diagnosis.rows import Finding, LayerHealth
from headstart.diagnosis.scene import Scene
from headstart.diagnosis.weight_rules import culprits_of, judge_weights
from headstart.diagnosis.wording import count, listed, names, some

LOST = 1e-3  # across-sample deviation over total deviation, below which a layer hardly tells inputs apart
VANISHED = 1e-3  # output deviation, absolute and relative to the input's, below which activations vanish
EXPLODED = 1e3  # the same, above which they explode
SPREAD = 1e5  # largest over smallest gradient/weight ratio, the extreme tenths of the layers left out
DEAD = 0.25  # share of a layer's units that may be dead
DEAD_POOLED = 0.75  # the same where a sample has one value per unit: pooled features hardly differ, so signs agree
SHUT = 0.9  # share of dead units from which hardly anything passes a layer
DEAD_VALUES = 32  # values per unit that it takes to call a unit dead
SATURATED = 0.5  # share of values at which a sigmoid or tanh may be flat
SAME = 1e-6  # of its deviation: below it the model's output is the same for all samples, up to rounding


def judge(diagnosis: Diagnosis, scene: Scene) -> list[Finding]:
    """Apply every rule, the most serious first."""
    rows = diagnosis.rows
    found = judge_weights(diagnosis, scene)
    closed = _closed(diagnosis, scene)
    ill = {name for f in closed for name in f.layers}
    zero = [r for r in rows if "starts at zero" in r.notes and r.name not in ill]
    if zero:
        verb = "starts" if len(zero) == 1 else "start"
        diagnosis.notes.append(
            f"{_upper(listed(zero))} {verb} at zero: this is taken as a choice, and is not a finding."
        )
    lost = _same_inputs(diagnosis) or closed or _lost(diagnosis, scene)
    dead = _dead(diagnosis, scene, lost)
    found += dead if _shut(rows, dead, lost) else lost
    found += _scale(diagnosis, scene)
    found += _spread(diagnosis, scene)
    found += _no_gradient(diagnosis, scene)
    found += [f for f in dead if f not in found]
    found += _saturated(rows)
    found += _constant_output(diagnosis, scene, bool(lost))
    found += _constant_channels(scene)
    found += _unused(rows, scene)
    return found


def _same_inputs(diagnosis: Diagnosis) -> list[Finding]:
    if diagnosis.input_across_sample_std != 0 or diagnosis.samples < 2:
        return []
    text = "All samples of the data are the same: no layer can distinguish them, and none is at fault."
    return [Finding("constant data", ("(input)",), text, "check how the data are loaded.")]


def _closed(diagnosis: Diagnosis, scene: Scene) -> list[Finding]:
    """A layer that starts at zero is a choice if another path leads around it, and a fault otherwise."""
    measured = [r for r in diagnosis.rows if r.across_sample_std is not None and r.name not in scene.outputs]
    zero = next((i for i, r in enumerate(measured) if "starts at zero" in r.notes), None)
    if zero is None or not scene.returned:
        return []
    behind = [r for r in diagnosis.rows if r.across_sample_std is not None]
    behind = behind[behind.index(measured[zero]) + 1 :]
    ends = all(pair is not None and pair[0] == 0 for pair in scene.returned)
    if not ends or not behind or any(r.across_sample_std for r in behind):
        return []
    row = measured[zero]
    text = f"All weights of {row.label} are zero, and no path leads around it: no layer behind it sees the inputs."
    return [Finding("constant weights", (row.name,), text)]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lost(diagnosis: Diagnosis, scene: Scene) -> list[Finding]:
    limit = LOST
    if diagnosis.input_std and diagnosis.input_across_sample_std is not None:
        limit *= min(1.0, diagnosis.input_across_sample_std / diagnosis.input_std)  # inputs that hardly differ
    looked_at = [r for r in diagnosis.rows if _alive(r) and r.name not in scene.batch_normed]
    lost = [r for r in looked_at if _share(r) < limit]
    if not lost or lost[-1] is not looked_at[-1]:  # a branch may see what is alike in all samples, such as a token
        return []
    if scene.quiet:
        diagnosis.notes.append(
            f"The output of {lost[-1].label} hardly distinguishes inputs yet ({_share(lost[-1]):.1g} of its"
            f" deviation): branches start small ({scene.quiet[0]})."
        )
        return []
    worst = min(lost, key=_share)
    text = (
        f"Signals are lost from {lost[0].label} on ({len(lost)} of {len(diagnosis.rows)} layers): in {worst.label} the"
        f" output's deviation is {worst.output_std:.2g}, but only {worst.across_sample_std:.2g} of it distinguishes"
        " inputs; the rest is the same for every sample (biases)."
    )
    return [Finding("signals lost", names(lost), text, _cause(diagnosis, scene))]


def _cause(diagnosis: Diagnosis, scene: Scene) -> str:
    """Where to look first: at tensors outside the layers' weights whose values explain the finding."""
    weights = {f"{r.name}.weight".lstrip(".") for r in diagnosis.rows}
    culprits = [name for name in culprits_of(scene) if name not in weights]
    return f"see {some(culprits)} first." if culprits else ""


def _alive(r: LayerHealth) -> bool:
    known = r.output_std is not None and r.across_sample_std is not None and math.isfinite(r.output_std)
    return known and bool(r.output_std) and "starts at zero" not in r.notes


def _share(r: LayerHealth) -> float:
    assert r.across_sample_std is not None
    assert r.output_std
    return r.across_sample_std / r.output_std


def _shut(rows: Sequence[LayerHealth], dead: Sequence[Finding], lost: Sequence[Finding]) -> bool:
    """Whether a layer whose units are nearly all dead runs before signals are lost, and so is the cause."""
    if not dead or not lost:
        return False
    order = [r.name for r in rows]
    worst = order.index(dead[0].layers[0])
    return worst < order.index(lost[0].layers[0]) and (rows[worst].never_positive or 0.0) > SHUT


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
    ends = [r.name for r in diagnosis.rows if r.output_std is not None][-1:]
    small = [(r, s) for r, s in free if s < VANISHED * min(1.0, relative) and not (s == 0 and scene.silent)]
    if len(small) < 2 or [small[-1][0].name] != ends:  # a branch may start small, and so may a head alone
        small = []
    if small and scene.quiet:
        worst, std = min(small, key=lambda pair: pair[1])
        diagnosis.notes.append(
            f"The output's deviation is only {std:.2g} in {worst.label}: branches start small ({scene.quiet[0]})."
        )
        small = []
    large = [(r, s) for r, s in free if s > EXPLODED * max(1.0, relative)]
    found = []
    for word, group, pick in (("vanish", small, min), ("explode", large, max)):
        if group:
            worst, std = pick(group, key=lambda pair: pair[1])
            text = (
                f"Activations {word} from {group[0][0].label} on ({len(group)} of {len(diagnosis.rows)} layers):"
                f" the output's deviation reaches {std:.2g} in {worst.label}."
            )
            found.append(
                Finding(f"activations {word}", tuple(r.name for r, _ in group), text, _cause(diagnosis, scene))
            )
    return found


def _spread(diagnosis: Diagnosis, scene: Scene) -> list[Finding]:
    aside = scene.normed | scene.own_laws  # a normalization takes the scale away; what mends the rest writes no gates
    free = [r for r in diagnosis.rows if r.name not in aside]
    rated = [(r.gradient_ratio, r) for r in free if r.gradient_ratio and math.isfinite(r.gradient_ratio)]
    if not rated:
        return []
    rated.sort(key=lambda pair: pair[0])
    tail = len(rated) // 10  # a tenth at either end may differ by design: a head, the queries of an attention
    (low, slow), (high, fast) = rated[tail], rated[-1 - tail]
    if high <= SPREAD * low:
        return []
    rates = f"the gradient/weight ratio is {low:.1e} in {slow.label} and {high:.1e} in {fast.label}"
    if tail:
        rates += f", the extreme tenths left out ({len(rated)} layers)"
    if scene.quiet:
        diagnosis.notes.append(
            f"In layers without normalization, {rates}, with branches that start small: {scene.quiet[0]}."
        )
        return []
    text = (
        f"Layers learn at rates that differ by a factor of {high / low:.1e}: {rates}, more than one learning rate can"
        " serve."
    )
    return [Finding("gradient spread", (slow.name, fast.name), text)]


def _no_gradient(diagnosis: Diagnosis, scene: Scene) -> list[Finding]:
    cut = [r for r in diagnosis.rows if r.gradient_rms == 0 or (r.gradient_rms is None and r.output_std is not None)]
    if not cut or not scene.gradients_measured:
        return []
    if scene.returned and all(pair is None for pair in scene.returned):
        diagnosis.notes.append(
            "The model returned no values, so gradients were not judged; pass loss_fn= to measure them."
        )
        return []
    if scene.silent:
        for r in cut:
            r.notes.append("no gradient yet: something starts at zero")
        return []
    text = f"No gradient reaches {listed(cut)}: no training step would change {'it' if len(cut) == 1 else 'them'}."
    mend = "check forward() for detach() and no_grad(), and whether all units behind are dead."
    if scene.own_laws.issuperset(r.name for r in cut):
        mend = "check what the output takes of them: one step from a state of zeros uses no hidden weights."
    return [Finding("no gradient", names(cut), text, mend)]


def _dead(diagnosis: Diagnosis, scene: Scene, lost: Sequence[Finding]) -> list[Finding]:
    hidden = {name for f in lost for name in f.layers}
    dead = [
        (r, r.never_positive)
        for r in diagnosis.rows
        if r.rectified
        and r.never_positive is not None
        and scene.values.get(r.name, 0) >= DEAD_VALUES
        and r.never_positive > (DEAD if scene.values[r.name] > diagnosis.samples else DEAD_POOLED)
        and r.name not in hidden
        and not _unreached(r)
    ]
    if not dead:
        return []
    worst, share = max(dead, key=lambda pair: pair[1])
    text = (
        f"{share:.0%} of the units of {worst.label} are dead: their ReLU is zero for every sample"
        f" ({count(dead, 'layer has', 'layers have')} too many of such units)."
    )
    culprits = (worst.name, *(r.name for r, _ in dead if r is not worst))
    return [Finding("dead units", culprits, text)]


def _unreached(r: LayerHealth) -> bool:
    """Whether a layer's output is the same for all samples, so that the cause lies before it."""
    return r.across_sample_std is not None and r.across_sample_std <= SAME * (r.output_std or 0.0)


def _saturated(rows: Sequence[LayerHealth]) -> list[Finding]:
    flat = [(r, r.saturated) for r in rows if r.saturated is not None and r.saturated > SATURATED]
    if not flat:
        return []
    worst, share = max(flat, key=lambda pair: pair[1])
    text = (
        f"The sigmoid or tanh behind {worst.label} is flat for {share:.0%} of its values: hardly any gradient passes"
        f" ({count(flat, 'layer has', 'layers have')} more than {SATURATED:.0%} of such values)."
    )
    return [Finding("saturated units", (worst.name, *(r.name for r, _ in flat if r is not worst)), text)]


def _constant_output(diagnosis: Diagnosis, scene: Scene, lost: bool) -> list[Finding]:
    known = [pair for pair in scene.returned if pair is not None and all(map(math.isfinite, pair))]
    if (
        lost
        or not known
        or len(known) < len(scene.returned)
        or diagnosis.input_across_sample_std == 0
        or culprits_of(scene)
    ):
        return []
    if any(across > SAME * std and across > 0 for across, std in known):
        return []
    ends = [r for r in diagnosis.rows if r.output_std is not None]
    if not ends or "starts at zero" in ends[-1].notes or (scene.silent and not any(std for _, std in known)):
        return []  # a head that starts at zero
    last = ends[-1]
    text = (
        f"The model's output is the same for every sample (deviation between samples {max(a for a, _ in known):.2g}),"
        f" though the output of its last layer, {last.label}, is not ({last.across_sample_std or 0.0:.2g}): the"
        " operations after it remove everything that distinguishes inputs."
    )
    mend = "check what forward() does last: a softmax over an axis of length 1, a mean over the batch, a detach()."
    return [Finding("constant output", (last.name,), text, mend)]


def _constant_channels(scene: Scene) -> list[Finding]:
    if not scene.constant_channels:
        return []
    which = [str(i) for i in scene.constant_channels]
    text = (
        f"{count(which, 'channel of the input has', 'channels of the input have')} the same value in all samples and"
        f" places ({some(which)}, counted from 0): nothing can be learned from them."
    )
    return [Finding("constant channel", tuple(which), text, "check how the data are loaded and normalized.")]


def _unused(rows: Sequence[LayerHealth], scene: Scene) -> list[Finding]:
    idle = [r for r in rows if r.name in scene.unreached and r.gradient_rms is None]
    if not idle:
        return []
    sure = "" if scene.gradients_measured else " as a module (gradients, which would be certain, were not measured)"
    text = f"The forward pass never uses {listed(idle)}{sure}, at least in evaluation mode."
    mend = "remove what is not needed, or check forward(); heads for training only are fine."
    return [Finding("unused layers", names(idle), text, mend)]
