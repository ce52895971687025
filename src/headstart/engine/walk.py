"""One forward pass in which methods fill and rescale every layer, in the order data reaches it.

A layer is affine in its weights, so after a rescale its output is known in closed form: the pass goes on
with it. Filling and normalizing a whole network thus costs one pass, not one per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from headstart.engine.draws_ahead import Draw, DrawsAhead, worth
from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.recurrent_walk import settle
from headstart.engine.routing import detached, leave_alone, not_reached, reached_late, tell_whole, too_few, with_graph
from headstart.engine.streamed_walk import stream
from headstart.engine.visit import Visit
from headstart.errors import HeadstartError, ModelError
from headstart.measure.positions import Positions
from headstart.model.forward import CurrentLayer, by_layer, first_input, layers_hooked, run
from headstart.model.hooks import EndOfPass, hooked
from headstart.model.inputs import Batch
from headstart.model.norms import batch_statistics
from headstart.model.weights import Layer, working_dtype
from headstart.numerics.moments import Moments

Jobs = Sequence[tuple[Method, Sequence[Layer]]]


@torch.no_grad()
def walk(view: ModelView, jobs: Jobs, batch_size: int | None = None) -> None:
    """Run the methods over their layers in one forward pass (or none, without data).

    Args:
        view: The view of the call: its model, in evaluation mode inside the transaction, its batch (without one the
            fills run in registration order), and what is known of the model.
        jobs: Methods with the layers that each wants.
        batch_size: Run at most so many samples at a time: see :mod:`headstart.engine.streamed_walk`.

    Raises:
        HeadstartError: A method, a write or the model's forward failed. Of several failures, the first is raised.
    """
    try:
        _walk(view, jobs, batch_size)
    except Exception:
        view.report.later.settle()  # a check of an earlier layer, which what failed now may come from
        raise
    view.report.later.settle()


def _walk(view: ModelView, jobs: Jobs, batch_size: int | None) -> None:
    methods: dict[str, list[Method]] = {}
    for method, layers in jobs:
        for layer in layers:
            methods.setdefault(layer.name, []).append(method)
    wanted = [layer for layer in [*view.trace.layers, *view.trace.parts] if layer.name in methods]
    devices = {layer.stored.device for layer in wanted}
    if not worth(list(devices)):
        return _visit(view, wanted, methods, batch_size)
    draws = [
        Draw(layer.name, purpose, shape, working_dtype(layer.stored.dtype))
        for layer in wanted
        for method in methods[layer.name]
        for purpose, shape in method.draws(layer)
    ]
    pin = any(device.type == "cuda" for device in devices)
    with DrawsAhead(view.seed, draws, pin=pin) as ahead:
        return _visit(replace(view, ahead=ahead), wanted, methods, batch_size)


def _visit(view: ModelView, wanted: list[Layer], methods: dict[str, list[Method]], batch_size: int | None) -> None:
    batch = view.batch
    if batch is None:
        for layer in wanted:
            visit = Visit(layer, view, None)
            visit.run(methods[layer.name], "before")
            visit.finish()
    elif looping := [la for la in wanted if _loops(la, view, methods)]:
        if batch_size is not None and batch_size < batch.size:
            raise HeadstartError(
                f"{looping[0].where} runs on its own earlier outputs, and recurrent='all' measures all of"
                " them together.",
                remedy="Pass fewer samples instead of batch_size=, or leave recurrent= out.",
            )
        for loops, group in groupby(wanted, key=lambda la: _loops(la, view, methods)):
            (settle if loops else _pass)(view, batch, list(group), methods)
    elif batch_size is not None and batch_size < batch.size:
        view.report.add_finding(f"Statistics of {batch.size} samples, {batch_size} at a time.")
        stream(view, batch.parts(batch_size), wanted, methods)
    else:
        _pass(view, batch, wanted, methods)


def _loops(layer: Layer, view: ModelView, methods: dict[str, list[Method]]) -> bool:
    """Whether a layer is to be calibrated over all its steps."""
    return layer.name in view.trace.recurrent and any(m.recurrences == "all" for m in methods[layer.name])


def _pass(view: ModelView, batch: Batch, wanted: list[Layer], methods: dict[str, list[Method]]) -> None:
    open_visits: dict[str, Visit] = {}
    left = {layer.name for layer in wanted}
    known: dict[str, Moments] = {}
    where = CurrentLayer()
    positions = Positions(batch.masks)

    def enter(layer: Layer, args: Any, kwargs: Any) -> None:
        value = first_input(args, kwargs)
        where.enter(layer, value)
        if layer.name in left and not (layer.sees_input and (args or kwargs)):
            visit = Visit(layer, view, None)  # its output will not be seen
            visit.run(methods[layer.name], "before")
            visit.finish()
            left.discard(layer.name)
            if not left and not view.trace.unreached:
                raise EndOfPass
        elif layer.name in left and too_few(view, layer, value):
            left.discard(layer.name)
            leave_alone(view, layer)
        elif layer.name in left and layer.name not in open_visits:
            visit = Visit(layer, view, detached(value), positions)
            open_visits[layer.name] = visit
            visit.run(methods[layer.name], "before")

    def leave(layer: Layer, args: Any, kwargs: Any, output: Any) -> Tensor | None:
        where.layer = None
        if layer.name not in open_visits:
            return None
        left.discard(layer.name)
        visit = open_visits.pop(layer.name)
        if not isinstance(output, Tensor):
            raise ModelError(f"{layer.where} returns a {type(output).__name__}, not a tensor.")
        positions.follow(layer, first_input(args, kwargs), output)
        own = output.detach().clone() if output.requires_grad else output
        visit.complete(own, methods[layer.name], (args, kwargs))
        if layer.name in view.trace.norm_after and visit.measured is not None:
            known[view.trace.norm_after[layer.name]] = visit.measured
        if not left and not view.trace.unreached:  # those may be reached now
            raise EndOfPass
        # The graph behind an output was made of the old weight: what the forward differentiates has to be of the new.
        return with_graph(layer, args, kwargs) if own is not output else None

    def follow(layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
        positions.follow(layer, first_input(args, kwargs), output)

    late: set[str] = set()
    if wanted:
        # Inside the user's own hooks: what they make of the output comes after the rescale.
        others = hooked(by_layer(view.trace.unreached), lambda layer, *_: late.add(layer.name))
        masked = hooked(by_layer(view.trace.layers) if positions else (), after=follow)
        with masked, layers_hooked(wanted, enter, leave) as hooks, others, batch_statistics(view.model, known):
            run(view.model, batch, where, until=hooks)
    reached_late(view, late)
    tell_whole(view, [positions])
    not_reached(view, [layer for layer in wanted if layer.name in left], "the whole batch")
