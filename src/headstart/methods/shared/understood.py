"""Which layers the default may write: those whose start and activation are ones that its recipes were tested on."""

from __future__ import annotations

from collections.abc import Sequence

from headstart.engine.left_alone import AGAIN
from headstart.methods.shared.known_starts import TOO_FEW, why_authors
from headstart.model import weights
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer

UNLIKE = "it runs several times, on inputs of different scales"
TRAINED = "behind it was trained: its values differ from channel to channel"
FIXED = "its forward changes its weight (weight standardization, say)"


def why_not_understood(layer: Layer, trace: ModelTrace, *, force: bool = False, zeros: bool = False) -> str:
    """Say why a layer is left: how it runs, what its author chose, or what its output goes into; empty if it is not.

    Args:
        layer: The layer.
        trace: The trace of its model, with its behaviour.
        force: Only require that the layer can be measured and written.
        zeros: Whether weights that are all zero may be written.
    """
    if layer.name in trace.recurrent:
        return AGAIN
    if layer.name in trace.unlike:
        return UNLIKE
    behaviour = trace.behaviour
    if behaviour is not None and layer.name in behaviour.fixed:
        return FIXED
    if force:
        return ""
    if behaviour is not None and layer.name in behaviour.trained:
        return f"'{trace.norm_after[layer.name]}' {TRAINED}"
    free = zeros and not bool(weights.look(layer).any())
    reason = "" if free else why_authors(layer, layer.name in trace.norm_after)
    if reason or behaviour is None:
        return reason
    return behaviour.strange.get(layer.name, "")


def leave_not_understood(
    layers: Sequence[Layer],
    trace: ModelTrace,
    report: ReportBuilder,
    method: str,
    *,
    force: bool,
    together: bool,
    zeros: bool = False,
) -> list[Layer]:
    """Drop the layers that are not understood, with their reasons, and say how many there are.

    Args:
        layers: The layers that a method would write.
        trace: The trace of their model.
        report: Gets the reasons.
        method: Its name.
        force: As for :func:`why_not_understood`.
        zeros: Likewise.
        together: Drop all if one is not understood, unless it only has too few weights: without norms each layer's
            scale depends on the others (the layers of a residual branch that ends in zeros must keep their scales).
    """
    reasons = {layer.name: why_not_understood(layer, trace, force=force, zeros=zeros) for layer in layers}
    first = next((name for name, reason in reasons.items() if reason and TOO_FEW not in reason), None)
    if together and first is not None:
        for name in reasons:
            reasons[name] = reasons[name] or f"without norms all scales depend on each other, and '{first}' is left"
    left = [layer for layer in layers if reasons[layer.name]]
    for layer in left:
        report.skip(layer, reasons[layer.name])
    if left:
        named = ", ".join(f"'{layer.name}'" for layer in left[:3]) + (", …" if len(left) > 3 else "")
        wider = "" if force else "; hs.Auto(force=True) leaves only what cannot be measured"
        report.add_finding(
            f"{method}: {len(left)} layers were left, as a choice of their author or as not understood ({named}: the"
            f" rows say why){wider}."
        )
    return [layer for layer in layers if not reasons[layer.name]]
