"""Layers that only a part of the data reaches, such as the experts behind a router."""

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
    """Tell whether a layer behind a router gets too few values of a batch for its statistics."""
    if not view.trace.routed or not isinstance(value, Tensor):
        return False
    return value.numel() // layer.in_channels < MIN_VALUES


def leave_alone(view: ModelView, layer: Layer) -> None:
    """Report why such a layer stays as it is."""
    view.report.skip(layer, f"too little of the batch reaches it: its statistics need {MIN_VALUES} values")


def not_reached(view: ModelView, left: Sequence[Layer], what: str) -> None:
    """Report that layers stay as they are because the router left them out after all.

    Raises:
        ModelError: Something other than a router leaves them out.
    """
    if left and not view.trace.routed:
        raise ModelError(
            f"The forward pass ran {sorted(layer.name for layer in left)} on two samples, but not on {what}.",
            remedy="The model takes different paths for different inputs: exclude these layers.",
        )
    for layer in left:
        view.report.skip(layer, "no data reaches it since the layers before it were written")


def reached_late(view: ModelView, layers: Iterable[str]) -> None:
    """Report layers that the model did not call before this start, and calls now."""
    if names := sorted(layers):
        view.report.add_finding(
            f"Called only after the layers before them were written, so left as they were: {', '.join(names)}."
            " Initialize once more to include them, or exclude the router."
        )


def tell_whole(view: ModelView, positions: Sequence[Positions]) -> None:
    """Report the layers whose positions fit no mask."""
    names = list(dict.fromkeys(name for p in positions for name in p.whole))
    if names:
        more = " …" if len(names) > 5 else ""
        view.report.add_finding(
            f"All positions count in {', '.join(names[:5])}{more}: their positions are not those of the mask."
        )


def detached(value: Any) -> Any:
    """A layer's input, detached from the graph of a forward pass with gradients."""
    return value.detach() if isinstance(value, Tensor) and value.requires_grad else value


def with_graph(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The output of a layer, computed again with gradients."""
    with torch.enable_grad():
        output: Tensor = layer.module.forward(*args, **kwargs)
    return output
