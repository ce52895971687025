"""Random weights with orthonormal rows or columns, and the draws that they need."""

from __future__ import annotations

import math

from torch import Tensor

from headstart.engine.visit import Visit
from headstart.errors import HeadstartError
from headstart.model.weights import Layer
from headstart.numerics.fetching import Values
from headstart.numerics.orthonormal import orthonormal_columns


def orthonormal(visit: Visit, rows: int, columns: int) -> Tensor:
    """Draw a matrix with orthonormal rows or columns, uniformly, or one for each of several groups."""
    layer = visit.layer
    tall = visit.normal(*orthonormal_shape(layer, rows, columns), purpose="weight/0")
    q, failed = orthonormal_columns(tall)

    def require(values: Values) -> None:
        if values.any():
            raise HeadstartError(
                f"The random matrices of {layer.where} have no orthonormal basis.", remedy="Pass another seed."
            )

    visit.later(failed, require)
    return q if rows >= columns else q.mT


def orthonormal_draws(layer: Layer) -> list[tuple[str, tuple[int, ...]]]:
    """The draws that :func:`orthonormal_weight` needs."""
    rows, columns = layer.out_channels // layer.groups, math.prod(layer.shape[1:])
    return [("weight/0", orthonormal_shape(layer, rows, columns))]


def orthonormal_shape(layer: Layer, rows: int, columns: int) -> tuple[int, ...]:
    """Shape of the tall matrices of all groups; a single matrix for one group, whose products take fewer operations."""
    sides = max(rows, columns), min(rows, columns)
    return sides if layer.groups == 1 else (layer.groups, *sides)


def orthonormal_weight(visit: Visit) -> Tensor:
    """Draw a canonical weight whose groups are semi-orthogonal."""
    layer = visit.layer
    return orthonormal(visit, layer.out_channels // layer.groups, math.prod(layer.shape[1:])).reshape(layer.shape)
