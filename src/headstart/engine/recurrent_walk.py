"""Layers that run on their own earlier outputs, calibrated over all of their steps.

The output of such a layer at one step changes its input at the next, so no rescale has a closed form. All steps
are measured together, the layer is rescaled, and the model runs again, until the outputs no longer change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.visit import Visit
from headstart.errors import ModelError
from headstart.model.forward import CurrentLayer, by_layer, first_input, run
from headstart.model.hooks import hooked
from headstart.model.inputs import Batch
from headstart.model.norms import batch_statistics
from headstart.model.weights import Layer, read, read_bias

ROUNDS = 60  # passes at most
FREE = 3  # of them take whole steps, the others half of them
SETTLED = 1e-3  # share by which weights may still move in the end


def settle(view: ModelView, batch: Batch, layers: Sequence[Layer], methods: Mapping[str, Sequence[Method]]) -> None:
    """Fill the layers from their inputs of all steps, and rescale them until their outputs of all steps agree.

    Args:
        view: The view of the call.
        batch: Runs as a whole, once for the fill and once for every round.
        layers: The recurrent layers, which are calibrated together.
        methods: The methods of each layer, by layer name.

    Raises:
        ModelError: A layer does not run on the whole batch.
    """
    calls = _calls(view, batch, layers)
    visits = {layer.name: Visit(layer, view, torch.cat([a for a, _, _ in calls[layer.name]])) for layer in layers}
    for name, visit in visits.items():
        visit.run(methods[name], "before")
    for rounds in range(1, ROUNDS + 1):
        calls, restore, moved = _calls(view, batch, layers), view.report.checkpoint(), 0.0
        old = [(read(layer), read_bias(layer)) for layer in layers]
        for layer, (before, _) in zip(layers, old, strict=True):
            outputs = torch.cat([output for _, output, _ in calls[layer.name]])
            visits[layer.name].complete(outputs, methods[layer.name], calls[layer.name][0][2])
            moved = max(moved, float((read(layer) - before).norm() / before.norm().clamp_min(1e-12)))
        if moved <= SETTLED or rounds == ROUNDS:
            break
        restore()
        if rounds >= FREE:
            for layer, (before, bias) in zip(layers, old, strict=True):
                _halfway(visits[layer.name], before, bias)
    for layer in layers:
        steps = len(calls[layer.name])
        view.report.rows[layer.name].notes.append(f"calibrated over all {steps} steps, in {rounds} rounds")
    if moved > SETTLED:
        names = ", ".join(f"'{layer.name}'" for layer in layers)
        view.report.add_finding(
            f"The recurrent layers {names} still moved by {moved:.1%} after {ROUNDS} rounds: their deviation over all"
            " steps is close to the target, not at it."
        )


def _halfway(visit: Visit, weight: Tensor, bias: Tensor | None) -> None:
    """Take back half of the last step, so that steps which jump to and fro across the solution converge to it."""
    filled, now = visit.filled, visit.bias
    between = None if visit.bias_free or bias is None or now is None else (bias + now) / 2
    visit.write((weight + visit.weight) / 2, between)
    visit.filled = filled


def _calls(
    view: ModelView, batch: Batch, layers: Sequence[Layer]
) -> dict[str, list[tuple[Tensor, Tensor, tuple[Any, Any]]]]:
    """Input and output of every call, by layer, and the arguments of the first call."""
    found: dict[str, list[tuple[Tensor, Tensor, tuple[Any, Any]]]] = {layer.name: [] for layer in layers}
    where = CurrentLayer()

    def leave(layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
        value = first_input(args, kwargs)
        if not isinstance(output, Tensor) or not isinstance(value, Tensor):
            raise ModelError(f"{layer.where} returns a {type(output).__name__}, not a tensor.")
        first = not found[layer.name]
        found[layer.name].append((value.clone(), output.clone(), (args, kwargs) if first else ((), {})))

    with where.following(view.model), hooked(by_layer(layers), after=leave) as hooks, batch_statistics(view.model, {}):
        run(view.model, batch.head(batch.size), where, until=hooks)
    missing = sorted(name for name, calls in found.items() if not calls)
    if missing:
        raise ModelError(
            f"The forward pass ran {missing} on two samples, but not on the whole batch.",
            remedy="The model takes different paths for different inputs: exclude these layers.",
        )
    return found
