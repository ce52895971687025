"""Which layers a call may write, by patterns, frozen and loaded weights, and ties."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from headstart.errors import HeadstartError, one_error, unknown
from headstart.model.parts import Part
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import LAYERS, Layer

Pattern = str | type[nn.Module] | Callable[[str, nn.Module], bool]


Selection = Pattern | Sequence[Pattern] | None


_KEEP_FLAGS = ("_is_hf_initialized", "_no_reinit")


def select(
    trace: ModelTrace, report: ReportBuilder, model: nn.Module, include: Selection, exclude: Selection
) -> tuple[ModelTrace, list[Layer]]:
    """Choose the layers that may be written; the report says why each other layer is left.

    A text pattern is a glob over qualified names, or the name of a block that holds layers. Frozen layers
    (``requires_grad=False``) and those flagged as already loaded are left alone unless ``include`` names them in
    full. Of tied weights and biases, the first in execution order is the owner.

    Args:
        trace: The trace of the model.
        report: Gets the reasons.
        model: The model.
        include: Only these layers.
        exclude: Not these layers.

    Returns:
        The trace, completed with frozen and excluded layers and tied biases; and the chosen layers.

    Raises:
        UnknownNameError: A pattern matches no layer.
    """
    includes, excludes = _known([*trace.layers, *trace.parts, *trace.unreached], include, exclude)
    everything = [*trace.layers, *trace.parts, *trace.unreached]
    excluded = {la.name for la in everything} - {la.name for la in named(everything, include, exclude)}
    owners = _owners(model)
    frozen, tied = set(), set()
    taken: dict[object, str] = {}
    chosen = []
    for layer in [*trace.parts, *trace.layers]:  # an embedding runs before the head that shares its weight
        by_name = layer.name in includes
        reason = _reason_to_leave(layer, includes, excludes, by_name, owners, taken)
        for p in layer.weight_parameters():
            taken.setdefault(layer.tie(p), layer.name)
        bias = layer.bias_parameter
        if bias is not None and taken.setdefault(layer.tie(bias), layer.name) != layer.name:
            tied.add(layer.name)
        if reason:
            report.skip(layer, reason)
            if reason.startswith("frozen"):
                frozen.add(layer.name)
            if reason.startswith("flagged"):
                excluded.add(layer.name)
        else:
            chosen.append(layer)
    chosen.sort(key=lambda la: isinstance(la, Part))
    return replace(trace, frozen=frozen, excluded=excluded, tied_biases=tied), chosen


def named(layers: Sequence[Layer], include: Selection, exclude: Selection) -> list[Layer]:
    """Filter layers by patterns only; frozen layers are included.

    Raises:
        UnknownNameError: A pattern matches no layer.
    """
    includes, excludes = _known(layers, include, exclude)
    wanted = [la for la in layers if not includes or any(_matches(p, la) for p in includes)]
    return [la for la in wanted if not any(_matches(p, la) for p in excludes)]


def _known(layers: Sequence[Layer], include: Selection, exclude: Selection) -> tuple[list[Pattern], list[Pattern]]:
    """List the patterns; each must match a layer."""
    includes, excludes = _patterns(include), _patterns(exclude)
    for pattern in [*includes, *excludes]:
        if not any(_matches(pattern, layer) for layer in layers):
            name = getattr(pattern, "__name__", str(pattern))
            raise unknown("layer that matches", name, [la.name for la in layers])
    return includes, excludes


def _reason_to_leave(
    layer: Layer,
    includes: list[Pattern],
    excludes: list[Pattern],
    by_name: bool,
    owners: dict[int, list[tuple[str, nn.Module]]],
    taken: dict[object, str],
) -> str:
    if includes and not any(_matches(p, layer) for p in includes):
        return "not included"
    if any(_matches(p, layer) for p in excludes):
        return "excluded"
    params = layer.weight_parameters()
    if not by_name:
        if not all(p.requires_grad for p in params):
            return "frozen (requires_grad=False)"
        if any(getattr(p, flag, False) for p in params for flag in _KEEP_FLAGS):
            return "flagged as already loaded"
    for p in params:
        if layer.tie(p) in taken:
            return f"tied to '{taken[layer.tie(p)]}', which runs first"
        for name, module in owners.get(id(p), []):
            if not isinstance(module, LAYERS) and module is not layer.module:
                return f"tied to '{name}' ({type(module).__name__})"
    return ""


def _owners(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        if "parametrizations" in name.split("."):
            continue
        for p in module._parameters.values():
            if p is not None:
                owners.setdefault(id(p), []).append((name, module))
    return owners


def _patterns(selection: Selection) -> list[Pattern]:
    if selection is None:
        return []
    if isinstance(selection, (str, type)) or callable(selection):
        return [selection]
    patterns = list(selection) if isinstance(selection, Sequence) else []
    if not patterns or not all(isinstance(p, (str, type)) or callable(p) for p in patterns):
        raise HeadstartError(
            f"{selection!r} does not select layers.",
            remedy="Pass a name, a glob, a module type, a predicate (name, module) -> bool, or a list of those.",
        )
    return patterns


def _matches(pattern: Pattern, layer: Layer) -> bool:
    if isinstance(pattern, str):
        return fnmatch.fnmatchcase(layer.name, pattern) or layer.name.startswith(pattern + ".")
    if isinstance(pattern, type):
        return isinstance(layer.module, pattern)
    with one_error(f"include= or exclude= failed on {layer.where}", remedy="Correct the function that you passed."):
        return bool(pattern(layer.name, layer.module))
