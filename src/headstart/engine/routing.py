"""Layers that not every part of the data reaches, such as the experts that a router chooses between, or padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from headstart.engine.model_view import ModelView
from headstart.errors import ModelError
from headstart.measure.positions import Positions
from headstart.model.weights import Layer
from headstart.numerics.moments import MIN_VALUES


def too_few(view: ModelView, layer: Layer, value: Any) -> bool:
    """Tell whether a layer that a router chooses gets less of a batch than its statistics need."""
    if not view.trace.routed or not isinstance(value, Tensor):
        return False
    return value.numel() // layer.in_channels < MIN_VALUES


def leave_alone(view: ModelView, layer: Layer) -> None:
    """Say of such a layer why it stays as it is."""
    view.report.skip(layer, f"too little of the batch reaches it: its statistics need {MIN_VALUES} values")


def not_reached(view: ModelView, left: Sequence[Layer], what: str) -> None:
    """Say of layers that a router left out after all that they stay as they are.

    Raises:
        ModelError: It is no router that leaves them out.
    """
    if left and not view.trace.routed:
        raise ModelError(
            f"The forward pass ran {sorted(layer.name for layer in left)} on two samples, but not on {what}.",
            remedy="The model takes different paths for different inputs: exclude these layers.",
        )
    for layer in left:
        view.report.skip(layer, "no data reaches it since the layers before it were written")


def reached_late(view: ModelView, layers: Iterable[str]) -> None:
    """Say that layers which the model left out as it was are called now."""
    if names := sorted(layers):
        view.report.add_finding(
            f"Called only since the layers before them were written, and left as they were: {', '.join(names)}."
            " Initialize once more to include them, or exclude what routes."
        )


def tell_whole(view: ModelView, positions: Sequence[Positions]) -> None:
    """Say which layers have positions that no mask fits."""
    names = list(dict.fromkeys(name for p in positions for name in p.whole))
    if names:
        more = " …" if len(names) > 5 else ""
        view.report.add_finding(
            f"All positions count in {', '.join(names[:5])}{more}: theirs are not those of the mask."
        )


def detached(value: Any) -> Any:
    """A layer's input without the graph that a forward with gradients puts behind it."""
    return value.detach() if isinstance(value, Tensor) and value.requires_grad else value


def with_graph(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The output of a layer once more, with gradients."""
    with torch.enable_grad():
        output: Tensor = layer.module.forward(*args, **kwargs)
    return output
