"""Shared by plain starts, for layers that are parts of modules: the module's own start, padding, embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from headstart.engine.visit import Visit
from headstart.model.parts import Part
from headstart.model.weights import Layer


def draw_own(visit: Visit, part: Part) -> None:
    """Draw a part as its module draws it."""
    start, weight = part.own_start, visit.weight
    if start.distribution == "normal":
        visit.write(without_padding(part, visit.normal(*weight.shape) * start.size))
    else:
        visit.write(uniform(visit, weight, start.size))
    if not visit.bias_free:
        bias = visit.bias
        assert bias is not None
        visit.write(bias=uniform(visit, bias, start.bias, "bias"))


def without_padding(layer: Layer, weight: Tensor) -> Tensor:
    """The weight, with the row of an embedding's padding set to zero."""
    if isinstance(layer, Part) and layer.padding is not None:
        weight[:, layer.padding] = 0
    return weight


def uniform(visit: Visit, like: Tensor, bound: float, purpose: str = "weight") -> Tensor:
    """Draw values uniform in ``±bound``, in the shape of another tensor."""
    unit = torch.rand(like.shape, generator=visit.generator(purpose), dtype=like.dtype).to(like.device)
    if unit.is_complex():  # both parts have half of the variance each
        return (2 * unit - (1 + 1j)) * (bound / math.sqrt(2))
    return (2 * unit - 1) * bound


def looks_up(layer: Layer) -> bool:
    """Whether the layer is an embedding."""
    return isinstance(layer, Part) and isinstance(layer.module, (nn.Embedding, nn.EmbeddingBag))
