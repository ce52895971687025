"""What is known of a model before anything is written: order, ties, norms, and which layers may be written."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headstart.errors import ModelError
from headstart.model.forward import CurrentLayer, by_layer, first_input, run, run_small
from headstart.model.hooks import hooked
from headstart.model.inputs import Batch
from headstart.model.norms import CHANNEL_NORMS, may_normalize, normalizes
from headstart.model.parts import Part, parts_of
from headstart.model.recurrence import study_calls
from headstart.model.returned import all_tensors
from headstart.model.weights import Layer, weight_layers

_RECENT = 16  # layer outputs held alive while looking for the norm that takes them


@dataclass(frozen=True)
class Behaviour:
    """Results of probing the operations behind layers, see :mod:`headstart.model.behaviour`.

    Attributes:
        strange: Layer name -> why its output does not go into one of the activations on which the recipes were tested.
        fixed: Names of layers whose forward does not use the weight as it is (weight standardization).
        evened: Names of layers whose output is normalized by an operation that is not a module.
        trained: Names of layers before a trained norm: one whose parameters all differ from channel to channel.
    """

    strange: Mapping[str, str] = field(default_factory=dict)
    fixed: Set[str] = frozenset()
    evened: Set[str] = frozenset()
    trained: Set[str] = frozenset()


@dataclass(frozen=True)
class ModelTrace:
    """The model as a forward pass shows it, and which of its layers may be written.

    Attributes:
        layers: Weight layers that run, in execution order (registration order without data).
        unreached: Weight layers that the forward never calls.
        parts: Layers that are parts of modules that run, as :mod:`headstart.model.parts` finds them: projections,
            gates, embeddings. Only methods that say so write them.
        unreached_parts: Parts of modules that the forward never calls; it may use their weights all the same.
        order: Layer or part -> its position in the order of execution.
        calls: How often each layer runs.
        recurrent: Names of layers that run on their own earlier outputs.
        unlike: Names of other layers that run several times, on inputs of different scales.
        norm_after: Layer name -> name of the normalization module that takes its output directly.
        norms: Names of all normalization modules that run.
        channel_norms: Names of norms that treat every channel separately: batch and instance norms.
        outputs: Names of layers whose output is returned by the model.
        traced: Whether a forward pass was run.
        frozen: Names of selected layers that are left alone because they do not train.
        excluded: Names of layers that the caller excluded, or that are flagged as loaded; they stay as they are.
        tied_biases: Names of layers whose bias belongs to an earlier layer.
        zeros: Names of layers whose weights are all zero when the call begins, if a method needs to know.
        behaviour: What the layers' outputs go into, if a method needs to know (``Method.studied``).
        routed: Names of layers that only parts of the batch reach: the data decide which layers run.
    """

    layers: Sequence[Layer]
    unreached: Sequence[Layer] = ()
    parts: Sequence[Part] = ()
    unreached_parts: Sequence[Part] = ()
    order: Mapping[str, int] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    recurrent: Set[str] = frozenset()
    unlike: Set[str] = frozenset()
    norm_after: Mapping[str, str] = field(default_factory=dict)
    norms: Set[str] = frozenset()
    channel_norms: Set[str] = frozenset()
    outputs: Set[str] = frozenset()
    traced: bool = False
    frozen: Set[str] = frozenset()
    excluded: Set[str] = frozenset()
    tied_biases: Set[str] = frozenset()
    zeros: Set[str] = frozenset()
    behaviour: Behaviour | None = None
    routed: Set[str] = frozenset()

    @property
    def first_convolution(self) -> Layer | None:
        """The first convolution with a kernel of more than one tap, in execution order."""
        return next((la for la in self.layers if la.kind == "conv" and math.prod(la.kernel) > 1), None)


def trace_model(model: nn.Module, batch: Batch | None, batch_size: int | None = None) -> ModelTrace:
    """Trace one small forward pass (two samples), or list the layers where there is no data.

    If that pass misses some layers, a pass of the whole batch shows whether they run, such as experts to which a
    router sends neither of the two samples.

    Args:
        model: Any model.
        batch: The batch; its ``needs_grad`` is set if the forward computes gradients itself.
        batch_size: Run at most this many samples at a time.

    Raises:
        ModelError: There is no weight layer, or the forward fails.
    """
    parts = parts_of(model)
    named = {part.name for part in parts}
    layers = [layer for layer in weight_layers(model) if layer.name not in named]
    if not layers and not parts:
        raise ModelError(
            f"{type(model).__name__} has no weight layer (Conv1-3d, ConvTranspose1-3d, Linear, attention,"
            " recurrent layers or embeddings).",
            remedy="Pass the model that holds the layers.",
        )
    if batch is None:
        return ModelTrace(layers, calls={layer.name: 1 for layer in layers}, parts=parts)
    small = _trace(model, layers, parts, batch)
    if not small.unreached or batch.size <= 2:
        return small
    pieces = batch.parts(batch_size or batch.size)
    traces = [_trace_once(model, layers, parts, piece.head(piece.size)) for piece in pieces]
    return _joined(traces, layers, small)


def _trace(model: nn.Module, layers: list[Layer], parts: list[Part], batch: Batch) -> ModelTrace:
    def attempt(part: Batch) -> ModelTrace:
        return _trace_once(model, layers, parts, part)

    try:
        return run_small(batch, 2, attempt)
    except ModelError:
        if batch.size <= 2 or batch.whole:
            raise
        return run_small(batch, batch.size, attempt)  # some models fix their batch size


def _joined(traces: Sequence[ModelTrace], layers: Sequence[Layer], small: ModelTrace) -> ModelTrace:
    """Join the traces of several batches, each of which ran only some of the layers."""
    reached = {layer.name: layer for trace in traces for layer in trace.layers}
    known = {layer.name for layer in small.layers}
    parts = {part.name: part for trace in traces for part in trace.parts}
    unreached = {part.name: part for trace in traces for part in trace.unreached_parts if part.name not in parts}
    return ModelTrace(
        list(reached.values()),
        [layer for layer in layers if layer.name not in reached],
        parts=list(parts.values()),
        unreached_parts=list(unreached.values()),
        calls={name: max(trace.calls.get(name, 0) for trace in traces) for name in reached},
        recurrent={name for trace in traces for name in trace.recurrent},
        unlike={name for trace in traces for name in trace.unlike},
        norm_after={layer: norm for trace in reversed(traces) for layer, norm in trace.norm_after.items()},
        norms={norm for trace in traces for norm in trace.norms},
        channel_norms={norm for trace in traces for norm in trace.channel_norms},
        outputs={name for trace in traces for name in trace.outputs},
        traced=True,
        routed=frozenset(reached) - known,
    )


def _trace_once(model: nn.Module, layers: list[Layer], parts: list[Part], batch: Batch) -> ModelTrace:
    order: dict[str, Layer] = {}
    calls: dict[str, int] = {}
    places: dict[str, int] = {}
    norm_after: dict[str, str] = {}
    norms: set[str] = set()
    recent: deque[tuple[str, Tensor, int, int]] = deque(maxlen=_RECENT)
    where = CurrentLayer()

    def enter(layer: Layer, args: Any, kwargs: Any) -> None:
        where.enter(layer, first_input(args, kwargs))
        places.setdefault(layer.name, len(places))
        order.setdefault(layer.name, layer)
        calls[layer.name] = calls.get(layer.name, 0) + 1

    def leave(layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
        where.layer = None
        if isinstance(output, Tensor):
            recent.append((layer.name, output, _place(output), output._version))

    judged: dict[str, bool] = {}

    def norm(named: tuple[str, nn.Module], args: Any, kwargs: Any) -> None:
        name, module = named
        value = first_input(args, kwargs)
        if name not in judged:
            judged[name] = False  # the probe is a copy, hooks and all
            judged[name] = normalizes(module, value)
        if judged[name]:
            norms.add(name)
            for source in _sources(value, recent):
                norm_after.setdefault(source, name)

    hosts = list(dict.fromkeys(part.host for part in parts))
    ran: dict[nn.Module, None] = {}

    def host(module: nn.Module, args: Any, kwargs: Any) -> None:
        ran.setdefault(module)
        for part in parts:
            if part.host is module:
                places.setdefault(part.name, len(places))

    candidates = [((name, m), m) for name, m in model.named_modules() if may_normalize(m)]
    with (
        torch.no_grad(),
        hooked(by_layer(layers), enter, leave),
        hooked(candidates, norm),
        hooked([(m, m) for m in hosts], host),
    ):
        returned = run(model, batch, where)
    if not order and not ran:
        raise ModelError(
            f"The forward pass of {type(model).__name__} runs none of its {len(layers) + len(parts)} weight layers.",
            remedy="Check that forward() calls the modules themselves.",
        )
    outputs = {name for t in all_tensors(returned) for name in _sources(t, recent)}
    recurrent, unlike = study_calls(model, batch, layers, calls)
    return ModelTrace(
        list(order.values()),
        [layer for layer in layers if layer.name not in order],
        calls=calls,
        recurrent=recurrent,
        unlike=unlike,
        norm_after=norm_after,
        norms={name for name in norms if not any(inner.startswith(f"{name}.") for inner in norms)},
        channel_norms={name for name in norms if isinstance(model.get_submodule(name), CHANNEL_NORMS)},
        outputs=outputs or set(list(order)[-1:]),
        traced=True,
        order=places,
        parts=[part for module in ran for part in parts if part.host is module],
        unreached_parts=[part for part in parts if part.host not in ran],
    )


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _sources(value: Any, recent: deque[tuple[str, Tensor, int, int]]) -> list[str]:
    """Names of the layers whose unmodified output is ``value``, or of which ``value`` is a view."""
    if not isinstance(value, Tensor):
        return []
    return [n for n, t, place, version in recent if place == _place(value) and t._version == version]
