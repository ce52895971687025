"""Rescaling that keeps a network's function: what may be rescaled, the rescale, and a check of the function."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.engine.model_view import ModelView
from headstart.errors import ModelError
from headstart.model import weights
from headstart.model.norms import as_in_training
from headstart.model.tensor_state import hold_tensors, restore_together
from headstart.model.weights import Layer
from headstart.restoring import put_back
from headstart.symmetries.same_function import change, outputs
from headstart.symmetries.scale_classes import Integers, ScaleFlow
from headstart.symmetries.scale_flow import trace_scales

_RANGE = 1 / 3  # of the exponents that a format has: sums of squares still fit, of values and of gradients


def follow(view: ModelView, channels: bool = False) -> ScaleFlow:
    """Follow the scales through the model, on two samples, or on the whole batch if the model needs it.

    Args:
        view: The model; layers that it does not list are not rescaled.
        channels: Whether to follow every channel separately.
    """
    fixed = {layer.name for layer in view.trace.layers} - {layer.name for layer in view.layers}
    rigid = {la.name for la in view.layers if la.module.bias is not None and not _may_scale_bias(view, la)}
    batch = view.batch
    assert batch is not None

    def attempt(size: int) -> ScaleFlow:
        view.transaction.rewind()
        trace = view.trace
        return trace_scales(view.model, batch.head(size), trace.layers, fixed, rigid, channels, trace.norms)

    try:
        return attempt(2)
    except ModelError:
        if batch.size <= 2:
            raise
        return attempt(batch.size)


def _may_scale_bias(view: ModelView, layer: Layer) -> bool:
    bias = layer.module.bias
    return isinstance(bias, nn.Parameter) and bias.requires_grad and layer.name not in view.trace.tied_biases


def rescale_checked(view: ModelView, flow: ScaleFlow, scales: Mapping[int, float]) -> dict[int, float] | None:
    """Rescale, check that the function is kept, and restore everything if it is not.

    The check uses the next larger powers of two: these cause no rounding, so even a network
    that magnifies rounding errors a millionfold computes the same, and any difference is real.

    Args:
        view: The model.
        flow: The flow of the model.
        scales: As for `rescale`.

    Returns:
        The scales as they were applied; None if the function would have changed.
    """
    if not any(scales.values()):
        return dict(scales)
    unit = math.log(2)
    seen = Function(view, flow)
    powers = {label: math.copysign(unit * math.ceil(abs(value) / unit), value) for label, value in scales.items()}
    first = rescale(view, flow, powers)
    if not seen.same():
        seen.restore()
        return None
    second = rescale(view, flow, {label: value - first.get(label, 0.0) for label, value in scales.items()})
    return {label: first.get(label, 0.0) + second.get(label, 0.0) for label in scales}


def rescale_seen(view: ModelView, flow: ScaleFlow, scales: Mapping[int, float]) -> dict[int, float] | None:
    """Rescale what norms take, and say whether that changed the function, fresh batch norms as in training.

    Args:
        view: The model.
        flow: The flow of the model.
        scales: As for `rescale`.

    Returns:
        The scales as they were applied; None if an epsilon shows.
    """

    def seen() -> list[Tensor]:
        view.transaction.rewind()
        assert view.batch is not None
        with as_in_training(view.model) if view.batch.size > 1 else nullcontext():
            return outputs(view.model, view.batch)

    before = seen()
    applied = rescale(view, flow, scales)
    return None if change(before, seen()) else applied


def within_range(view: ModelView, scales: Mapping[int, float], so_far: Mapping[int, float]) -> dict[int, float]:
    """Shrink all scales by one factor if the resulting weights would exceed the number format.

    Args:
        view: The model.
        scales: Logarithm of the factor of each class.
        so_far: The scales that were applied before.
    """
    formats = [weights.look(layer).dtype for layer in view.layers]
    limit = min((_RANGE * math.log(torch.finfo(dtype).max) for dtype in formats), default=math.inf)
    share = 1.0
    for label, value in scales.items():
        room = max(0.0, limit - math.copysign(1, value) * so_far.get(label, 0.0))
        if abs(value) > room:
            share = min(share, room / abs(value))
    return {label: share * value for label, value in scales.items()}


def rescale(view: ModelView, flow: ScaleFlow, scales: Mapping[int, float]) -> dict[int, float]:
    """Rescale every layer, and the running statistics of batch norms in evaluation mode.

    Args:
        view: The model.
        flow: The flow of the model.
        scales: Logarithm of the factor of each class; missing classes are not rescaled.

    Returns:
        The scales as they were applied: a batch norm's epsilon may have set a limit.
    """
    floors = _floors(view, flow)
    wanted = {label: max(value, floors.get(label, value)) for label, value in scales.items()}
    factors = {label: math.exp(value) for label, value in wanted.items() if value != 0}
    if not factors:
        return {}
    whole: list[tuple[Layer, float, float]] = []
    for layer in view.layers:
        use = flow.uses.get(layer.name)
        if use is None or not factors.keys() & {*use.outputs.tolist(), *use.inputs.tolist()}:
            continue
        if use.single:
            whole.append((layer, factors.get(int(use.inputs[0]), 1.0), factors.get(int(use.outputs[0]), 1.0)))
        else:
            view.rescale(layer, _per_channel(use.inputs, factors), _per_channel(use.outputs, factors))
    if whole:
        view.rescale_whole(whole)
    for name, labels in flow.norms.items():
        if factors.keys() & set(labels.tolist()):
            view.rescale_statistics(name, _per_channel(labels, factors))
    return wanted


def _floors(view: ModelView, flow: ScaleFlow) -> dict[int, float]:
    """How far a class before a batch norm may shrink: the norm's variance can compensate only for its epsilon."""
    found: dict[int, float] = {}
    for name, labels in flow.norms.items():
        norm = view.model.get_submodule(name)
        assert isinstance(norm, _BatchNorm)
        assert norm.running_var is not None
        least = 0.5 * torch.log(norm.eps / (norm.running_var.double() + norm.eps))
        for label, value in zip(labels.tolist(), least.tolist(), strict=True):
            found[label] = max(found.get(label, -math.inf), value)
    return found


def _per_channel(labels: Integers, factors: Mapping[int, float]) -> Tensor:
    return torch.tensor([factors.get(label, 1.0) for label in labels.tolist()], dtype=torch.float64)


class Function:
    """What a model computes for a few samples, and how to restore it.

    Args:
        view: The model, before it is rescaled.
        flow: The flow of the model.
    """

    def __init__(self, view: ModelView, flow: ScaleFlow) -> None:
        self._view = view
        norms = [view.model.get_submodule(name) for name in flow.norms]
        tensors = {f"{la.name}.{n}": t for la in view.layers for n, t in la.module.named_parameters()}
        tensors |= {
            f"{name}.{n}": b for name, norm in zip(flow.norms, norms, strict=True) for n, b in norm.named_buffers()
        }
        self._held = hold_tensors(tensors.items())
        self._restore_report = view.report.checkpoint()
        self._before = self._outputs()

    def same(self) -> bool:
        """Tell whether the model still computes the same up to rounding; values that were not finite are ignored."""
        return not change(self._before, self._outputs())

    def restore(self) -> None:
        """Restore everything that a rescale writes, in the model and in the report."""
        restore_together(self._held)
        put_back((held.name, held.restore) for held in self._held)
        for layer in self._view.layers:
            weights.refresh(layer.module)
        self._restore_report()

    def _outputs(self) -> list[Tensor]:
        assert self._view.batch is not None
        self._view.transaction.rewind()
        return outputs(self._view.model, self._view.batch)
