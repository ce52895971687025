"""Mends of findings: Python code that runs as printed.

A mend is printed for a kind of finding only if it helped where that fault was planted: the loss after 60 steps with
and without it is in ``docs/results/diagnoses.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import nn

from headstart.diagnosis.rows import Finding
from headstart.methods.auto import LAYERS_PER_NORM
from headstart.model.parts import parts_of
from headstart.model.trace import ModelTrace
from headstart.model.weights import LAYERS

_ANEW = {"not finite", "huge values", "constant weights"}  # all that a finding names
_FIRST = {"saturated units", "dead units"}  # the culprit alone: the others follow from it
_WHOLE = {"signals lost", "activations vanish", "activations explode", "gradient spread"}


def mended(findings: Sequence[Finding], model: nn.Module, trace: ModelTrace, with_data: bool) -> list[Finding]:
    """Add its mend to every finding."""
    plain = LAYERS_PER_NORM * len(trace.norms) < len(trace.layers)
    return [_mended(f, model, plain and with_data) for f in findings]


def _mended(finding: Finding, model: nn.Module, plain: bool) -> Finding:
    if finding.mend:
        return finding
    if finding.kind in _WHOLE and plain:
        code = 'hs.initialize(model, data, "within-layer")'
        return replace(finding, mend="give every layer outputs of deviation 1", code=code)
    if finding.kind in _ANEW or finding.kind in _FIRST:
        culprits = finding.layers[:1] if finding.kind in _FIRST else finding.layers
        return replace(finding, mend="load it again, or draw it anew", code=anew(model, culprits))
    return finding


def anew(model: nn.Module, culprits: Iterable[str]) -> str:
    """Python code that draws anew the modules of the named parameters, buffers or modules."""
    modules = dict(model.named_modules())
    inside = {part.name for part in parts_of(model)} - modules.keys()
    layers: list[str] = []
    calls: dict[str, None] = {}
    for name in culprits:
        if name in inside:
            layers.append(name)
            continue
        owner, tensor = _owner(name, modules)
        module = modules[owner]
        if isinstance(module, LAYERS) and tensor in ("", "weight", "bias"):
            layers += [owner] if owner not in layers else []
            continue
        reset = next((r for r in ("reset_parameters", "_reset_parameters") if callable(getattr(module, r, None))), None)
        if reset is not None:
            calls[f"model{_path(owner)}.{reset}()"] = None
        elif tensor:
            where = _path(name, "parameter")
            calls[f"torch.nn.init.trunc_normal_(model{where}, std=0.02)"] = None
    if layers:
        where = "" if layers == [""] else f", include={layers!r}"
        calls = {f'hs.initialize(model, method="default"{where})': None, **calls}
    return "; ".join(calls)


def _owner(name: str, modules: dict[str, nn.Module]) -> tuple[str, str]:
    """The module that a parameter, buffer or module name belongs to, and the tensor's own name."""
    if name in modules:
        return name, ""
    if ".parametrizations." in name or name.startswith("parametrizations."):
        return name.split("parametrizations.")[0].rstrip("."), "weight"
    owner, _, tensor = name.rpartition(".")
    return owner, tensor


def _path(name: str, what: str = "submodule") -> str:
    """The Python expression for a module or parameter: by attributes, or by name if that is not an identifier."""
    if not name:
        return ""
    return f".{name}" if all(part.isidentifier() for part in name.split(".")) else f".get_{what}({name!r})"
