"""The rules about weights: values that no network can use, copies, exceptions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from headstart.diagnosis.health import Diagnosis
from headstart.diagnosis.odd_ones import drawn_by_other_fan, layers_without_norm
from headstart.diagnosis.rows import Finding, LayerHealth
from headstart.diagnosis.scene import Scene
from headstart.diagnosis.wording import count, listed, names, some

_COPIES = "check whether that is intended. Drawing them anew made no difference to the loss within 60 steps."
HUGE = 1e3  # magnitude of a parameter that no start has on purpose


def judge_weights(diagnosis: Diagnosis, scene: Scene) -> list[Finding]:
    """Apply the rules about weights, the most serious first."""
    rows = diagnosis.rows
    found = [*_not_finite(rows, scene), *_huge(scene), *_constant(rows, scene), *_copies(scene), *_fans(rows, scene)]
    return found + _missing_norm(diagnosis, scene)


def culprits_of(scene: Scene) -> list[str]:
    """Tensors with values that no network can use: not finite, or else huge."""
    return list(scene.broken) or [name for name, size in scene.largest.items() if size > HUGE]


def _not_finite(rows: Sequence[LayerHealth], scene: Scene) -> list[Finding]:
    found = []
    bad = list(scene.broken)
    if bad:
        text = f"{count(bad, 'tensor holds', 'tensors hold')} NaN or infinite values: {some(bad)}."
        found.append(Finding("not finite", tuple(bad), text))
    broken = [r for r in rows if r.output_std is not None and not math.isfinite(r.output_std)]
    if broken:
        text = f"Activations are NaN or infinite from {broken[0].label} on ({len(broken)} of {len(rows)} layers)."
        cause = culprits_of(scene)
        mend = f"see {some(cause)} first." if cause else "check the inputs' range and the layers before it."
        found.append(Finding("not finite", names(broken), text, mend))
    wild = [r for r in rows if r.gradient_rms is not None and not math.isfinite(r.gradient_rms)]
    if wild and not broken and not bad:
        text = f"Gradients are NaN or infinite in {listed(wild)}, although activations are finite."
        found.append(Finding("not finite", names(wild), text, "use a wider precision, or check the loss."))
    return found


def _huge(scene: Scene) -> list[Finding]:
    large = sorted((n for n, size in scene.largest.items() if size > HUGE), key=lambda n: -scene.largest[n])
    if not large:
        return []
    text = (
        f"{count(large, 'tensor holds', 'tensors hold')} values of more than {HUGE:g}, which no usual start has:"
        f" {some(large)} (up to {scene.largest[large[0]]:.2g})."
    )
    return [Finding("huge values", tuple(large), text)]


def _constant(rows: Sequence[LayerHealth], scene: Scene) -> list[Finding]:
    equal = [r for r in rows if r.weight_std == 0 and "starts at zero" not in r.notes and math.prod(r.shape) > 1]
    same = [r for r in equal if r.name not in scene.embeddings]  # which may hold gains, and each row learns by itself
    if not same:
        return []
    text = f"All weights of {listed(same)} are equal: its units start as copies and stay copies."
    return [Finding("constant weights", names(same), text)]


def _copies(scene: Scene) -> list[Finding]:
    if not scene.copies:
        return []
    every = tuple(n for group in scene.copies for n in group)
    text = (
        f"{len(every)} parameters are bit for bit copies of each other and not tied, in {len(scene.copies)} groups such"
        f" as {some(scene.copies[0])}: layers that start alike."
    )
    return [Finding("duplicates", every, text, _COPIES)]


def _fans(rows: Sequence[LayerHealth], scene: Scene) -> list[Finding]:
    aside = scene.outputs | scene.own_laws  # heads have rules of their own, too
    odd = drawn_by_other_fan([r for r in rows if r.name not in aside], scene.transposed)
    if not odd:
        return []
    row, fan, factor = odd[0]
    other = "out" if fan == "in" else "in"
    text = (
        f"The weights of {listed([r for r, *_ in odd])} are scaled by fan_{other}, those of all other layers of the"
        f" kind by fan_{fan}: {row.label} is {factor:.2g} times the scale of that rule."
    )
    return [Finding("swapped fan", names([r for r, *_ in odd]), text, "check whether that is intended.")]


def _missing_norm(diagnosis: Diagnosis, scene: Scene) -> list[Finding]:
    found = []
    for block, norm, have in scene.blocks_without_norm:
        text = f"Block '{block}' has no norm '{norm}', but {have} similar blocks of the same class have one."
        found.append(Finding("missing norm", (block,), text, "check whether the norm is missing on purpose."))
    inside = [f"{block}." for block, *_ in scene.blocks_without_norm]
    pooled = {name for name, values in scene.values.items() if values <= diagnosis.samples}
    for name, have in layers_without_norm(diagnosis.rows, scene.normed, scene.outputs | pooled):
        if not any(name.startswith(block) for block in inside):
            text = f"No norm follows '{name}', but one follows all {have} others of its kind."
            found.append(Finding("missing norm", (name,), text, "check whether the norm is missing on purpose."))
    return found
