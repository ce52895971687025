"""What a layer's output goes into: activations, norms, or unknown operations. Found by probing each operation."""

from __future__ import annotations

import copy
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary

from headstart import rng
from headstart.errors import HeadstartError
from headstart.model.forward import by_layer, first_input, run
from headstart.model.hooks import EndOfPass, hooked
from headstart.model.inputs import Batch
from headstart.model.norms import may_normalize, normalizes
from headstart.model.own_forward import has_own_forward
from headstart.model.probed_call import ENOUGH, Curve, ProbedCall, Shown, probe_key
from headstart.model.returned import all_tensors
from headstart.model.trace import Behaviour, ModelTrace
from headstart.model.weights import LAYERS, Layer, is_plain
from headstart.numerics.fetching import fetch

_LOSSES = {"softmax", "log_softmax"}  # over classes: as in the loss that recipes were judged by
CLOSED = "so that its branch begins closed, as its author chose"
LOST = "the operations on its output could not be followed"


def study_behaviour(
    model: nn.Module, batch: Batch, trace: ModelTrace, wanted: Sequence[Layer] | None = None
) -> Behaviour:
    """Follow layers' outputs to the first nonlinear operation, and probe that.

    Args:
        model: In evaluation mode.
        batch: Two samples of it are run; all of it where the samples decide which layers run.
        trace: The trace of the model.
        wanted: Layers to follow; None for all.

    Returns:
        What was seen. Every layer is strange if the model does not run on two samples.

    Cost: one pass of two samples. Every operation up to the activations runs a few times.
    """
    names = [layer.name for layer in (trace.layers if wanted is None else wanted)]
    follower = _Follower(set(names), trace.outputs)
    modules = [(m, m) for m in model.modules() if not any(isinstance(part, LAYERS) for part in m.modules())]
    layers = hooked(by_layer(trace.layers), follower.enter, follower.leave)
    around = hooked(modules, follower.open, follower.close)
    try:
        with rng.untouched(0), torch.no_grad(), layers as hooks, around, follower:
            returned = run(model, batch.head(batch.size if trace.routed else 2), until=hooks)
    except HeadstartError:  # a model that fixes its batch size, or keeps a state
        return Behaviour(dict.fromkeys(names, "its model does not run on two samples again"))
    follower.arrive(all_tensors(returned))
    reasons = {name: follower.verdicts.get(name, "" if name in trace.outputs else LOST) for name in names}
    strange = {name: reason for name, reason in reasons.items() if reason}
    return Behaviour(strange, follower.fixed, follower.evened, _before_trained_norms(model, trace, names))


def _before_trained_norms(model: nn.Module, trace: ModelTrace, names: Sequence[str]) -> set[str]:
    """The layers that are followed by a trained norm.

    A new norm has one value for all channels in at least one parameter: some authors draw its factors at random, but
    none draws its shifts.
    """
    norms = {name: model.get_submodule(trace.norm_after[name]) for name in names if name in trace.norm_after}
    owned = {name: [p for p in norm.parameters() if p.numel() > 1] for name, norm in norms.items()}
    values = iter(fetch([p.flatten() for parameters in owned.values() for p in parameters]))
    varied = {name: [next(values) for _ in parameters] for name, parameters in owned.items()}
    return {name for name, found in varied.items() if found and all(np.ptp(v) > 0 for v in found)}


@dataclass(frozen=True)
class _Source:
    """The layers that a value comes from, and the line ``scale * z + shift`` that it has gone through since."""

    names: frozenset[str]
    scale: float = 1.0
    shift: float = 0.0


class _Follower(TorchFunctionMode):
    """Marks the values that come from layers' outputs, call by call.

    Args:
        wanted: Names of the layers.
        outputs: Names of the layers at the end of the model.

    Attributes:
        verdicts: Layer name -> why its activation is strange; "" if it is not.
        fixed: Names of layers that do not use their weight as it is.
        evened: Names of layers whose output is normalized by an operation that is no norm module.
    """

    def __init__(self, wanted: set[str], outputs: Set[str]) -> None:
        super().__init__()
        self._wanted, self._outputs = wanted, outputs
        self.verdicts: dict[str, str] = {}
        self.fixed: set[str] = set()
        self.evened: set[str] = set()
        self._sources = WeakTensorKeyDictionary()
        self._known: dict[Any, Shown] = {}  # what operations were seen to do
        self._hidden = 0  # inside of what is judged as a whole
        self._judged: dict[nn.Module, _Source | None] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Examine the call, then make it."""
        kwargs = kwargs or {}
        sources = [] if self._hidden else self._found((args, kwargs))
        if not sources:
            return func(*args, **kwargs)
        source = _merged(sources)
        key = probe_key(func, args, kwargs, lambda t: self._source(t) is not None)
        known = None if key is None else self._known.get((key, source.scale, source.shift))
        call = None if known else ProbedCall(func, args, kwargs, lambda t: self._source(t) is not None)
        result = func(*args, **kwargs)
        values = [t for t in tree_flatten(result)[0] if isinstance(t, Tensor) and t.is_floating_point()]
        if values:
            shown = known or (call.shows(source.scale, source.shift) if call else Shown())
            if key is not None:  # what the same operation did to another layer's output, it does to this one's
                self._known[key, source.scale, source.shift] = shown
            self._mark(values, self._after(shown, source, str(getattr(func, "__name__", type(func).__name__))))
        return result

    def enter(self, layer: Layer, args: Any, kwargs: Any) -> None:
        """Note that a layer takes the output of others, with only linear operations between."""
        self.arrive([first_input(args, kwargs)])
        if self._wanted <= self.verdicts.keys() and not len(self._sources):
            raise EndOfPass  # nothing is left to follow
        self._hidden += 1
        if has_own_forward(layer) and not _linear_in_weight(layer, args, kwargs):
            self.fixed.add(layer.name)

    def leave(self, layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
        """Follow the layer's output."""
        self._hidden -= 1
        followed = layer.name in self._wanted
        self._mark(all_tensors(output), _Source(frozenset([layer.name])) if followed else None)

    def arrive(self, values: Sequence[Any]) -> None:
        """Note that values reached a layer, or the end, by linear operations alone."""
        for source in self._found(values):
            self._record(source, "")

    def open(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Judge a module without weight layers as a whole, if it maps each value by itself.

        Its parts may be steep (the cube in GELU's formula) or invisible (scripts).
        """
        value = first_input(args, kwargs)
        source = None if self._hidden else self._source(value)
        if source is None:
            return
        self._hidden += 1
        if may_normalize(module) and normalizes(module, value):
            self._judged[module] = _Source(source.names)
            return
        curve = self._curve(module, args, kwargs, source)
        if curve is None:
            self._hidden -= 1
        else:
            self._judged[module] = self._bent(curve, source, type(module).__name__)

    def close(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Follow the output of such a module."""
        if module in self._judged:
            self._hidden -= 1
            self._mark(all_tensors(output), self._judged.pop(module))

    def _curve(self, module: nn.Module, args: Any, kwargs: Any, source: _Source) -> Curve | None:
        """The curve of a module. Modules of torch without parameters have the same curve behind every layer."""
        value = first_input(args, kwargs)
        plain = type(module).__module__.startswith("torch.nn.") and not module.state_dict() and not module._modules
        key = (type(module), module.extra_repr(), value.dtype, source.scale, source.shift) if plain else None
        if key in self._known:
            return self._known[key].curve
        call = ProbedCall(copy.deepcopy(module).forward, args, kwargs, lambda t: t is value)
        curve = call.curve(source.scale, source.shift)
        if key is not None and value.numel() >= ENOUGH:
            self._known[key] = Shown(curve)
        return curve

    def _after(self, shown: Shown, source: _Source, name: str) -> _Source | None:
        """The source of a call's result; None if its layers already have a verdict."""
        if shown.curve is not None:
            return self._bent(shown.curve, source, name)
        if shown.lines:
            return source
        if shown.sizeless:
            self.evened |= source.names
            return _Source(source.names)
        at_end = name in _LOSSES and source.names <= self._outputs
        self._record(source, "" if at_end else f"'{name}' takes its output, and was never tested behind a layer")
        return None

    def _bent(self, curve: Curve, source: _Source, name: str) -> _Source | None:
        if curve.line is not None:
            if curve.line[0] == 0 and source.scale != 0:  # ReZero's and SkipInit's factors
                self._record(source, f"'{name}' behind it makes it zero, {CLOSED}")
                return None
            return _Source(source.names, *curve.line)
        shown = "" if curve.shown else f"'{name}' behind it is no activation that the recipes were tested on"
        self._record(source, shown)
        return None

    def _record(self, source: _Source, reason: str) -> None:
        for name in source.names:
            self.verdicts[name] = self.verdicts.get(name) or reason

    def _found(self, values: Any) -> list[_Source]:
        return [s for t in tree_flatten(values)[0] if (s := self._source(t)) is not None]

    def _source(self, value: Any) -> _Source | None:
        """The source of a value, unless something has written into it since."""
        if not isinstance(value, Tensor):
            return None
        source, version = self._sources.get(value, (None, None))
        return source if source is not None and version == value._version else None

    def _mark(self, values: Sequence[Tensor], source: _Source | None) -> None:
        for value in values:
            if source is not None:
                self._sources[value] = (source, value._version)
            elif value in self._sources:  # written in place, or handed through
                del self._sources[value]


def _merged(sources: Sequence[_Source]) -> _Source:
    if len(sources) == 1:
        return sources[0]
    steepest = max(sources, key=lambda s: abs(s.scale))
    return _Source(frozenset().union(*(s.names for s in sources)), steepest.scale, steepest.shift)


def _linear_in_weight(layer: Layer, args: Any, kwargs: Any) -> bool:
    """Whether a layer with its own forward gives twice the output for twice the weight, its bias apart."""
    if not is_plain(layer):
        return True
    try:
        tried = copy.deepcopy(layer.module)
        weight = tried.weight.detach().clone()
        outputs = []
        for factor in (0.0, 1.0, 2.0):
            tried.weight.copy_(factor * weight)
            outputs.append(tried.forward(*args, **kwargs))
        nothing, once, twice = outputs
        return bool((twice - 2 * once + nothing).abs().max() <= 0.02 * max(float(twice.abs().max()), 1e-12))
    except Exception:
        return False
