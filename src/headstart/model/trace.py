"""What is known of a model before anything is written: order, ties, norms, and who may be written."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headstart.errors import ModelError
from headstart.model.forward import CurrentLayer, by_layer, first_input, run
from headstart.model.hooks import hooked
from headstart.model.inputs import Batch
from headstart.model.norms import is_norm
from headstart.model.weights import Layer, weight_layers

_RECENT = 16  # layer outputs held alive while looking for the norm that takes them


@dataclass(frozen=True)
class ModelTrace:
    """The model as a forward pass shows it, and which of its layers may be written.

    Attributes:
        layers: Weight layers that run, in execution order (registration order without data).
        unreached: Weight layers that the forward never calls.
        calls: How often each layer runs.
        norm_after: Layer name -> name of the normalization module that takes its output directly.
        norms: Names of all normalization modules that run.
        outputs: Names of layers whose output the model returns.
        traced: Whether a forward pass was seen.
        frozen: Names of selected layers left alone because they do not train.
        excluded: Names of layers that the caller left out, or that are flagged as loaded: they stay as they are.
        tied_biases: Names of layers whose bias belongs to a layer before them.
    """

    layers: Sequence[Layer]
    unreached: Sequence[Layer] = ()
    calls: Mapping[str, int] = field(default_factory=dict)
    norm_after: Mapping[str, str] = field(default_factory=dict)
    norms: Set[str] = frozenset()
    outputs: Set[str] = frozenset()
    traced: bool = False
    frozen: Set[str] = frozenset()
    excluded: Set[str] = frozenset()
    tied_biases: Set[str] = frozenset()

    @property
    def first_convolution(self) -> Layer | None:
        """The first convolution with a kernel of more than one tap, in execution order."""
        return next((la for la in self.layers if la.kind == "conv" and math.prod(la.kernel) > 1), None)


def trace_model(model: nn.Module, batch: Batch | None) -> ModelTrace:
    """Trace one small forward pass (two samples), or list the layers where there is no data.

    Raises:
        ModelError: No weight layer, or the forward fails.
    """
    layers = weight_layers(model)
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no weight layer (Conv1-3d, ConvTranspose1-3d or Linear).",
            remedy="Pass the model that holds the layers.",
        )
    if batch is None:
        return ModelTrace(layers, calls={layer.name: 1 for layer in layers})
    return _trace(model, layers, batch)


def _trace(model: nn.Module, layers: list[Layer], batch: Batch) -> ModelTrace:
    try:
        return _trace_once(model, layers, batch.head(2))
    except ModelError:
        if batch.size <= 2:
            raise
        return _trace_once(model, layers, batch)  # some models fix their batch size


def _trace_once(model: nn.Module, layers: list[Layer], batch: Batch) -> ModelTrace:
    order: dict[str, Layer] = {}
    calls: dict[str, int] = {}
    norm_after: dict[str, str] = {}
    norms: set[str] = set()
    recent: deque[tuple[str, Tensor, int, int]] = deque(maxlen=_RECENT)
    where = CurrentLayer()

    def enter(layer: Layer, args: Any, kwargs: Any) -> None:
        where.enter(layer, first_input(args, kwargs))
        order.setdefault(layer.name, layer)
        calls[layer.name] = calls.get(layer.name, 0) + 1

    def leave(layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
        where.layer = None
        if isinstance(output, Tensor):
            recent.append((layer.name, output, _place(output), output._version))

    def norm(name: str, args: Any, kwargs: Any) -> None:
        norms.add(name)
        for source in _sources(first_input(args, kwargs), recent):
            norm_after.setdefault(source, name)

    normalizing = [(name, m) for name, m in model.named_modules() if is_norm(m)]
    with torch.no_grad(), hooked(by_layer(layers), enter, leave), hooked(normalizing, norm):
        returned = run(model, batch, where)
    if not order:
        raise ModelError(
            f"The forward pass of {type(model).__name__} runs none of its {len(layers)} weight layers.",
            remedy="Check that forward() calls the modules themselves.",
        )
    outputs = {name for t in _all_tensors(returned) for name in _sources(t, recent)}
    return ModelTrace(
        list(order.values()),
        [layer for layer in layers if layer.name not in order],
        calls,
        norm_after,
        norms,
        outputs or {next(reversed(order))},
        traced=True,
    )


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _sources(value: Any, recent: deque[tuple[str, Tensor, int, int]]) -> list[str]:
    """Names of the layers whose unmodified output ``value`` is, or is a view of."""
    if not isinstance(value, Tensor):
        return []
    return [n for n, t, place, version in recent if place == _place(value) and t._version == version]


def _all_tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in _all_tensors(v)]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in _all_tensors(v)]
    return []
