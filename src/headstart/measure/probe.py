"""One forward and one backward pass that measure every layer and change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from headstart.measure.positions import Positions
from headstart.model.forward import CurrentLayer, by_layer, first_input
from headstart.model.hooks import hooked
from headstart.model.norms import is_norm
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer

_RECTIFIERS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6}
_CLAMPS = {torch.clamp, torch.clamp_, Tensor.clamp, Tensor.clamp_, torch.clamp_min, Tensor.clamp_min, F.hardtanh}
_THRESHOLDS = {F.threshold, F._threshold, torch.threshold}  # type: ignore[attr-defined]
# What keeps the sign and the channels of its input: the rectifier may come after it.
_KEEPS = {
    *(getattr(torch, f"max_pool{d}d") for d in (1, 2, 3)),
    *(getattr(F, f"max_pool{d}d") for d in (1, 2, 3)),
    *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, Tensor.contiguous),
}
# Beyond these magnitudes the slope is less than a hundredth of the steepest.
_SATURATING: dict[Any, float] = {
    **dict.fromkeys((torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid), 6.0),
    **dict.fromkeys((torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, F.tanh, F.hardsigmoid), 3.0),
}
_NORMS = {F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm}


@dataclass
class Signal:
    """Measurements of a layer's first call.

    Attributes:
        mean, std: Mean and deviation of the output over everything.
        across: Deviation between samples; NaN for a single sample.
        never_positive: Share of channels without a positive value.
        rectified: Whether a ReLU-like activation takes the output.
        values: How many values per channel ``never_positive`` is based on.
        saturated: Share of the output's values at which the sigmoid or tanh that takes them is flat; None without one.
    """

    mean: float
    std: float
    across: float
    never_positive: float
    values: int
    rectified: bool = False
    saturated: float | None = None


class UsedWeights:
    """Records the weight tensors that layers compute with.

    Args:
        layers: The layers to watch.
        where: Records which layer is computing, for error messages.

    Attributes:
        found: Layer name -> one tensor per call, each only once.
    """

    def __init__(self, layers: Iterable[Layer], where: CurrentLayer) -> None:
        self.found: dict[str, list[Tensor]] = {}
        self._layers, self._where = list(layers), where

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Attach to the layers."""
        with hooked(by_layer(self._layers), self._enter, self._leave):
            yield

    def _enter(self, layer: Layer, args: Any, kwargs: Any) -> None:
        self._where.enter(layer, first_input(args, kwargs))

    def _leave(self, layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
        self._where.layer = None
        weight, used = layer.module.weight, self.found.setdefault(layer.name, [])
        if isinstance(output, Tensor) and not any(weight is w for w in used):
            used.append(weight)


class Probe(TorchFunctionMode):
    """Measures layer outputs, and follows each to the normalization and the activation that take it.

    It sees functions such as ``torch.relu`` as well as modules, because torch passes every call to this mode.

    Args:
        layers: The layers to measure.
        positions: The positions of the batch that count; all by default.
    """

    def __init__(self, layers: Iterable[Layer], positions: Positions | None = None) -> None:
        super().__init__()
        self.positions = positions or Positions(())
        self.signals: dict[str, Signal] = {}
        self._layers = list(layers)
        self._sources = WeakTensorKeyDictionary()
        self._busy = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Examine the call, then make it."""
        kwargs = kwargs or {}
        value = first_input(args, kwargs) if args or kwargs else None
        layer = None if self._busy else self._source(value)
        if layer is None or not isinstance(value, Tensor):
            return func(*args, **kwargs)
        if _rectifies(func, args, kwargs):
            self._measure_sign(layer, value)
            self.signals[layer.name].rectified = True
        if func in _SATURATING:
            with self._looking():
                flat = self.positions.counting(layer, value.detach()).abs() > _SATURATING[func]
                self.signals[layer.name].saturated = float(flat.double().mean()) if flat.numel() else None
        result = func(*args, **kwargs)
        if func in _NORMS and isinstance(result, Tensor):
            self._measure_sign(layer, result)
        if func in _KEEPS or func in _NORMS:
            self._mark(result, layer)
        return result

    @contextmanager
    def hooked(self, model: nn.Module) -> Any:
        """Attach to the layers and normalizations of ``model``."""
        norms = [(name, m) for name, m in model.named_modules() if is_norm(m)]
        with hooked(by_layer(self._layers), after=self._leave), hooked(norms, after=self._norm):
            yield self

    def _leave(self, layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        with self._looking():
            self.positions.follow(layer, first_input(args, kwargs), output)
            if layer.name not in self.signals:
                self.signals[layer.name] = _measure(layer, output.detach(), self.positions)
                self._mark(output, layer)

    def _norm(self, name: str, args: Any, kwargs: Any, output: Any) -> None:
        layer = self._source(first_input(args, kwargs))
        if layer is not None and isinstance(output, Tensor):
            self._measure_sign(layer, output)
            self._mark(output, layer)

    def _measure_sign(self, layer: Layer, value: Tensor) -> None:
        """Count again at the activation, if the axes of the channels have not changed."""
        signal = self.signals[layer.name]
        axis = layer.channel_axis(value)
        if signal.rectified or not 0 <= axis < value.dim() or value.shape[axis] != layer.out_channels:
            return
        with self._looking():
            signal.never_positive, signal.values = _never_positive(value.detach(), layer, self.positions)

    def _mark(self, value: Any, layer: Layer) -> None:
        if isinstance(value, Tensor):
            self._sources[value] = (layer, value._version)

    def _source(self, value: Any) -> Layer | None:
        """The layer whose output is ``value``, unless something has written into it since."""
        if not isinstance(value, Tensor):
            return None
        layer, version = self._sources.get(value, (None, None))
        return layer if layer is not None and version == value._version else None

    @contextmanager
    def _looking(self) -> Any:
        """Measure without triggering this mode."""
        busy, self._busy = self._busy, True
        try:
            with torch.no_grad():
                yield
        finally:
            self._busy = busy


def _measure(layer: Layer, output: Tensor, positions: Positions) -> Signal:
    moments = positions.moments(layer, output)
    positions.note(layer, output)
    share, values = _never_positive(output, layer, positions)
    across = positions.across_sample_std(layer, output)
    return Signal(moments.total_mean, moments.total_std, across, share, values)


def _never_positive(output: Tensor, layer: Layer, positions: Positions) -> tuple[float, int]:
    """Share of channels without a positive value, and the number of values per channel. NaN counts as positive."""
    value = positions.counting(layer, output)
    axis = layer.channel_axis(output) if value is output else 1
    channels = value.shape[axis]
    if value.numel() == 0 or value.is_complex():  # complex numbers have no sign
        return 0.0, 0
    top = value.movedim(axis, 0).flatten(1).amax(1) if value.dim() > 1 else value
    return float((top <= 0).double().mean()), value.numel() // channels


def _rectifies(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the function maps every negative value to zero."""
    if func in _RECTIFIERS:
        return True
    if func in _THRESHOLDS:
        level, replacement = (*args[1:], *(kwargs[k] for k in ("threshold", "value") if k in kwargs), 1, 1)[:2]
        return bool(level == 0 and replacement == 0)
    if func in _CLAMPS:
        default = -1.0 if func is F.hardtanh else None
        low = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val", default))
        return isinstance(low, (int, float)) and low == 0
    return False


def weight_gradients(
    top: list[Tensor],
    top_gradients: list[Tensor] | None,
    trace: ModelTrace,
    used: Mapping[str, list[Tensor]],
    own: dict[int, Tensor],
) -> dict[str, Tensor | None]:
    """Gradient of every layer's effective weight; None where the output does not depend on it.

    Args:
        top: The outputs, or the loss, to differentiate.
        top_gradients: One per output; None for a loss.
        trace: The layers.
        used: Layer name -> the tensors that it computed with.
        own: Copies of the parameters by the ``id`` of the parameter, for layers that were not called.

    Returns:
        Gradients by layer name. With several tensors it is their sum; for a part of a module it is that part.
    """
    wanted: dict[str, list[Tensor]] = {}
    parts = [*trace.parts, *trace.unreached_parts]
    for layer in [*trace.layers, *parts, *trace.unreached]:
        called = used.get(layer.name) or [own[id(p)] for p in layer.weight_parameters() if id(p) in own]
        wanted[layer.name] = [t for t in called if t.requires_grad]
    tensors = list({id(t): t for group in wanted.values() for t in group}.values())
    if not tensors:
        return dict.fromkeys(wanted)
    found = torch.autograd.grad(top, tensors, top_gradients, allow_unused=True)
    by_id = {id(t): g for t, g in zip(tensors, found, strict=True)}
    sums = {name: _sum([by_id[id(t)] for t in group]) for name, group in wanted.items()}
    # An embedding may ask for gradients of the rows that it looked up alone.
    sums = {name: g.to_dense() if g is not None and g.is_sparse else g for name, g in sums.items()}
    for part in parts:
        whole = sums[part.name]
        sums[part.name] = None if whole is None else part.own(whole)
    return sums


def _sum(gradients: list[Tensor | None]) -> Tensor | None:
    total: Tensor | None = None
    for g in gradients:
        if g is not None:
            total = g if total is None or total.shape != g.shape else total + g
    return total
