"""The algebra of between-layer balance: find scales with which all layers learn at one relative rate.

A layer's rate is ``sqrt(mean(g²) / mean(w²))``, with its weight ``w`` and the gradient ``g``. Multiplying its output
by ``exp(s_out)``, after its inputs were multiplied by ``exp(s_in)``, multiplies its weights by
``exp(s_out - s_in)`` and divides its gradient by the same: rates after any rescale are known in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.symmetries.operations import PINNED

Floats = NDArray[np.float64]
_ITERATIONS = 100
_CLOSE = 1e-10


@dataclass(frozen=True)
class Energies:
    """The terms of a layer's rate.

    Args:
        output: Scale class of its output.
        gradients: Sum of squared gradients of the weights, by the class of the inputs that they act on.
        weights: Sum of squared weights, likewise.
    """

    output: int
    gradients: Mapping[int, float]
    weights: Mapping[int, float]

    @property
    def measurable(self) -> bool:
        """Whether the layer has a rate: neither its weights nor their gradients are all zero."""
        return all(0 < sum(part.values()) < math.inf for part in (self.gradients, self.weights))

    def log_rate(self, scales: Mapping[int, float]) -> float:
        """Return the logarithm of the rate after a rescale.

        Args:
            scales: Logarithm of the factor of every class; missing ones count as 0.

        Example:
            >>> layer = Energies(output=1, gradients={0: 4.0}, weights={0: 1.0})
            >>> round(layer.log_rate({}), 3), round(layer.log_rate({1: 0.5}), 3)
            (0.693, -0.307)
        """
        gradient = _log_sum({label: (value, 2 * scales.get(label, 0.0)) for label, value in self.gradients.items()})
        weight = _log_sum({label: (value, -2 * scales.get(label, 0.0)) for label, value in self.weights.items()})
        return 0.5 * (gradient - weight) - 2 * scales.get(self.output, 0.0)

    def slopes(self, scales: Mapping[int, float]) -> dict[int, float]:
        """Return the derivatives of :meth:`log_rate` with respect to the scales that it depends on."""
        found = {self.output: -2.0}
        for part, sign in ((self.gradients, 2), (self.weights, -2)):
            logs = {label: math.log(v) + sign * scales.get(label, 0.0) for label, v in part.items() if v > 0}
            top = max(logs.values())
            shares = {label: math.exp(value - top) for label, value in logs.items()}
            total = sum(shares.values())
            for label, share in shares.items():
                found[label] = found.get(label, 0.0) + share / total
        return found


def _log_sum(parts: Mapping[int, tuple[float, float]]) -> float:
    """Logarithm of the sum of ``value * exp(exponent)``, without overflow."""
    logs = [math.log(value) + exponent for value, exponent in parts.values() if value > 0]
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs))


def solve(layers: Mapping[str, Energies]) -> dict[int, float]:
    """Find the scales that make all rates as equal as the network's structure allows.

    It minimizes the squared differences of the log rates from their mean, by Gauss-Newton steps of least norm, so
    that a scale that affects no rate stays. On a chain of layers all rates become their geometric mean, exactly
    and in one step; inside a residual branch, whose scales must multiply to one, they become that of the branch.

    Args:
        layers: Layer name -> its terms; layers without a rate are left out.

    Returns:
        Logarithm of the factor of each class. The pinned class is not among them.

    Example:
        >>> chain = {
        ...     "a": Energies(1, {0: 100.0}, {0: 1.0}),
        ...     "b": Energies(0, {1: 1.0}, {1: 1.0}),
        ... }
        >>> scales = solve(chain)
        >>> [round(layer.log_rate(scales), 6) for layer in chain.values()]
        [1.151293, 1.151293]
    """
    measured = [layer for layer in layers.values() if layer.measurable]
    classes = sorted(
        {label for layer in measured for label in (layer.output, *layer.gradients, *layer.weights)} - {PINNED}
    )
    if len(measured) < 2 or not classes:
        return {}
    column = {label: i for i, label in enumerate(classes)}
    scales = dict.fromkeys(classes, 0.0)
    for _ in range(_ITERATIONS):
        rates = np.array([layer.log_rate(scales) for layer in measured])
        slopes = np.zeros((len(measured), len(classes)))
        for row, layer in enumerate(measured):
            for label, slope in layer.slopes(scales).items():
                if label != PINNED:
                    slopes[row, column[label]] += slope
        # Differences to the mean, whatever it is: both sides lose theirs.
        step = np.linalg.lstsq(slopes - slopes.mean(0), -(rates - rates.mean()), rcond=1e-10)[0]
        length = _damped(measured, scales, classes, step, rates)
        scales = {label: scales[label] + length * float(step[column[label]]) for label in classes}
        if float(np.abs(length * step).max()) < _CLOSE:
            break
    return scales


def _damped(layers: list[Energies], scales: dict[int, float], classes: list[int], step: Floats, rates: Floats) -> float:
    """Halve a step until the spread does not grow; whole steps are exact except with concatenations."""
    length = 1.0
    for _ in range(30):
        tried = {label: scales[label] + length * change for label, change in zip(classes, step, strict=True)}
        if np.var([layer.log_rate(tried) for layer in layers]) <= np.var(rates) + 1e-15:
            return length
        length /= 2
    return 0.0
