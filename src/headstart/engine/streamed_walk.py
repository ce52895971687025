"""The walk over more data than fits into memory at once: statistics of several batches, exact at every layer.

A layer's statistics depend on all layers before it, so each layer takes a pass of its own over all batches, which
ends there. That costs about half as many passes as there are layers; memory is that of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.routing import detached, leave_alone, not_reached, tell_whole, too_few
from headstart.engine.visit import Visit
from headstart.errors import ModelError
from headstart.measure.positions import Positions
from headstart.model.forward import by_layer, first_input, layers_hooked, run
from headstart.model.hooks import EndOfPass, hooked
from headstart.model.inputs import Batch
from headstart.model.norms import fresh_batch_norms, settled
from headstart.model.weights import Layer
from headstart.numerics.moments import Moments, channel_moments, pooled


@torch.no_grad()
def stream(
    view: ModelView, parts: Sequence[Batch], wanted: Sequence[Layer], methods: Mapping[str, Sequence[Method]]
) -> None:
    """Run the methods over their layers, with statistics over all parts together.

    Args:
        view: The view of the call.
        parts: Batches; fills are made from the first.
        wanted: Layers that a method wants, in execution order.
        methods: The methods of each layer, by layer name.

    Raises:
        HeadstartError: A method, a write or the model's forward failed.
    """
    model = view.model
    left = {layer.name: layer for layer in wanted}
    norms = fresh_batch_norms(model)
    known: dict[str, Moments] = {}
    positions = [Positions(part.masks) for part in parts]
    statistics = [b for m in norms.values() for b in (m.running_mean, m.running_var) if b is not None]
    with settled(norms.values()):
        for module in _order(view, parts, wanted, norms.values()):
            view.transaction.rewind(statistics)
            if isinstance(module, Layer):
                del left[module.name]
                measured = _layer(view, parts, module, methods[module.name], positions)
                if module.name in view.trace.norm_after and measured is not None:
                    known[view.trace.norm_after[module.name]] = measured
            else:
                name = next(name for name, norm in norms.items() if norm is module)
                moments = known.get(name) or _moments(view, parts, module)
                if moments is None:
                    continue
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(moments.mean)
                module.running_var.copy_(moments.var)
    not_reached(view, list(left.values()), "a batch")
    tell_whole(view, positions)


def _layer(
    view: ModelView,
    parts: Sequence[Batch],
    layer: Layer,
    methods: Sequence[Method],
    positions: Sequence[Positions],
) -> Moments | None:
    """Run a layer's methods; return the moments of its output, or None if too little of the data reaches it."""
    if not layer.sees_input:
        visit = Visit(layer, view, None)
        visit.run(methods, "before")
        visit.finish()
        return None
    visits: list[Visit] = []
    found: list[Moments] = []
    last: list[tuple[Tensor, Any]] = []
    skipped: list[int] = []

    def enter(number: int, value: Any) -> None:
        if not visits:
            if too_few(view, layer, value):
                skipped.append(number)
                raise EndOfPass
            visit = Visit(layer, view, detached(value), positions[number])
            visits.append(visit)
            visit.run(methods, "before")
            visit.input = None

    def leave(number: int, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ModelError(f"{layer.where} returns a {type(output).__name__}, not a tensor.")
        own = output.detach()
        positions[number].follow(layer, first_input(*inputs), own)
        found.append(positions[number].moments(layer, own))
        last[:] = [(own, inputs)]

    _sweep(view, parts, layer, leave, enter, positions)
    if not visits:
        leave_alone(view, layer)
        return None
    _sweep(
        view, parts, layer, leave, enter, positions, skipped
    )  # what was too little to begin with counts all the same
    visits[0].complete(last[0][0], methods, last[0][1], pooled(found))
    return visits[0].measured


def _moments(view: ModelView, parts: Sequence[Batch], norm: _BatchNorm) -> Moments | None:
    found: list[Moments] = []

    def enter(number: int, value: Any) -> None:
        found.append(channel_moments(value, 1))

    _sweep(view, parts, norm, lambda *_: None, enter)
    return pooled(found) if found else None


def _sweep(
    view: ModelView,
    parts: Sequence[Batch],
    module: Layer | nn.Module,
    leave: Callable[[int, Any, Any], None],
    enter: Callable[[int, Any], None],
    positions: Sequence[Positions] = (),
    numbers: Sequence[int] | None = None,
) -> None:
    """Run every part, or some of them, up to the first use of a layer or module."""
    number = 0

    def before(key: Any, args: Any, kwargs: Any) -> None:
        enter(number, first_input(args, kwargs))

    def after(key: Any, args: Any, kwargs: Any, output: Any) -> None:
        leave(number, (args, kwargs), output)
        raise EndOfPass

    alone = (
        (lambda: layers_hooked([module], before, after))
        if isinstance(module, Layer)
        else (lambda: hooked([(0, module)], before, after))
    )
    for number in range(len(parts)) if numbers is None else numbers:
        part = parts[number]
        following = positions and bool(positions[number])
        others = by_layer(view.trace.layers) if following else ()

        def follow(layer: Layer, args: Any, kwargs: Any, output: Any, number: int = number) -> None:
            positions[number].follow(layer, first_input(args, kwargs), output)

        with hooked(others, after=follow), alone() as hooks:
            run(view.model, part.head(part.size), until=hooks)  # a copy: a model may write into its input
        if not hooks.ended and not view.trace.routed:
            raise ModelError(
                f"A {type(module).__name__} that ran on two samples did not run on a batch.",
                remedy="The model takes different paths for different inputs: exclude such layers.",
            )


def _order(
    view: ModelView, parts: Sequence[Batch], layers: Sequence[Layer], norms: Iterable[_BatchNorm]
) -> list[Layer | _BatchNorm]:
    """The layers and norms that two samples reach, in the order of first use. All, where it depends on the samples."""
    order: dict[Any, None] = {}
    seen = [part.head(part.size) for part in parts] if view.trace.routed else [parts[0].head(2)]

    def enter(key: Any, args: Any, kwargs: Any) -> None:
        order.setdefault(key)

    with layers_hooked(layers, enter, lambda *_: None), hooked([(m, m) for m in norms], enter):
        for part in seen:
            run(view.model, part)
    return list(order)
