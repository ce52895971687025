"""Which layers a method visits: those that it selects, without complex ones where it cannot treat them."""

from __future__ import annotations

from collections.abc import Sequence

from headstart.engine.left_alone import without_recurrent
from headstart.engine.method import Method
from headstart.errors import ModelError, one_error
from headstart.model.parts import Part
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer


def selected(method: Method, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
    """Let a method choose its layers.

    Args:
        method: The method.
        layers: Layers that may be written.
        trace: What is known of the model.
        report: Gets the reasons for layers that are left.

    Raises:
        ModelError: It would write layers with complex weights, and is made for real ones only.
        HeadstartError: The method failed.
    """
    name, on_complex = method.info.name, method.on_complex()
    layers = without_recurrent(method, _served(method, layers, report), trace, report)
    if on_complex == "left":
        for layer in layers:
            if layer.is_complex:
                report.skip(layer, f"its weights are complex, and {name} was not tested on complex weights")
        layers = [layer for layer in layers if not layer.is_complex]
    with one_error(f"{name} failed while it chose its layers"):
        chosen = method.select(layers, trace, report)
    refused = [layer for layer in chosen if layer.is_complex and on_complex == "refused"]
    if refused:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise ModelError(
            f"{name} is made for real weights. The weights of {refused[0].where}{more} are complex.",
            remedy="Use 'kaiming', 'orthogonal' or another plain start, 'lsuv' or 'within-layer', which take complex"
            " weights, or exclude= these layers.",
        )
    return chosen


def _served(method: Method, layers: Sequence[Layer], report: ReportBuilder) -> list[Layer]:
    """The layers that a method can write; parts of modules that it cannot write get their reason."""
    chosen = []
    for layer in layers:
        reason = ""
        if isinstance(layer, Part):
            if not method.writes_parts:
                reason = f"{method.info.name} does not write parts of a {type(layer.host).__name__}"
            elif method.info.needs_data and not layer.sees_input:
                inside = f"lies inside the {type(layer.host).__name__}" if layer.inside else "is no vector of numbers"
                reason = f"what it takes {inside}"
        if reason:
            report.skip(layer, reason)
        else:
            chosen.append(layer)
    return chosen
