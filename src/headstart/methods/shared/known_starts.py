"""Whether a layer still has one of the usual starts, or weights that its author chose."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from headstart.model import weights
from headstart.model.weights import Layer
from headstart.numerics.draws import SURE, why_not_drawn
from headstart.numerics.fetching import Values, fetch

WHOLE = 2**16  # weights up to which all are fetched at once, instead of some for each look
TOO_FEW = "too few to judge"
TOLERANCE = 0.03  # of a deviation: leaky slopes and truncation move it by less
_UNIFORM = math.sqrt(3)  # deviations at which a uniform law ends
_NORMAL = 1.9, 256  # deviations that the largest of so many normal, or truncated normal, values are surely beyond
_ROUNDED = 1e-6  # of a bound: what single precision may add
_NOTHING = 1e-3  # of the framework's bound: biases that small are as good as zero (``normal_(1e-6)``)
_GAINS = {"lecun": 1.0, "kaiming": math.sqrt(2), "tanh": 5 / 3}


def known_deviations(layer: Layer, normed: bool) -> Iterator[tuple[str, float]]:
    """List the deviations of the starts on which the recipes were tested, with their names.

    Args:
        layer: Gives the fans: as torch counts them, which for grouped and transposed layers differs from
            the inputs that an output sums, and as they really are.
        normed: Whether a normalization takes the output, so that the scale is free.
    """
    taps = math.prod(layer.kernel)
    ins, outs = layer.in_channels // layer.groups * taps, layer.out_channels // layer.groups * taps
    if layer.kind == "transposed":  # torch takes the stored axes
        fans_in, fans_out = {float(outs), layer.fan_in}, {float(layer.in_channels * taps), float(outs)}
    else:
        fans_in, fans_out = {float(ins)}, {float(layer.out_channels * taps), float(outs)}
    yield "the framework's", framework_bound(layer) / _UNIFORM
    for into in fans_in:
        for out in fans_out:
            for name, gain in _GAINS.items():
                yield f"{name} of fan_in", gain / math.sqrt(into)
                yield f"{name} of fan_out", gain / math.sqrt(out)
                yield "xavier", gain * math.sqrt(2 / (into + out))
    if layer.kind == "linear":
        yield "normal_(.01)", 0.01  # VGG's and MobileNet's
    if normed:
        yield "trunc_normal_(.02)", 0.02


def framework_bound(layer: Layer) -> float:
    """The bound of torch's uniform draw of weights and biases; for transposed layers by the stored axes."""
    channels = layer.out_channels if layer.kind == "transposed" else layer.in_channels
    return 1 / math.sqrt(channels // layer.groups * math.prod(layer.kernel))


def why_authors(layer: Layer, normed: bool) -> str:
    """Say why a layer's weights count as its author's choice; empty if they are one of the usual starts.

    Args:
        layer: The layer.
        normed: Whether a normalization takes its output.
    """
    weight, bias = weights.look(layer), weights.look_bias(layer)
    biases: list[Any] = [] if bias is None else [bias]
    if weight.numel() <= WHOLE:
        values, *biases = fetch([weight.flatten(), *biases])
        size, largest = math.sqrt(np.square(values).sum()), float(np.abs(values).max(initial=0.0))
        reason = why_not_drawn(values.reshape(weight.shape), layer.groups)
    else:
        dtype = weights.working_dtype(weight.dtype)
        measured = [torch.linalg.vector_norm(weight, norm, dtype=dtype) for norm in (2, math.inf)]
        (size, largest), *biases = fetch([torch.stack(measured), *biases])
        reason = why_not_drawn(weight, layer.groups)
    if reason:
        return f"{reason}: its author's choice" if TOO_FEW not in reason else reason
    deviation = size / math.sqrt(weight.numel())
    # Of a uniform law the deviation is estimated better than that of a normal one, whose error this is.
    slack = max(TOLERANCE, 5 / math.sqrt(2 * weight.numel()))
    near = [known for _, known in known_deviations(layer, normed) if abs(math.log(deviation / known)) <= slack]
    if not near:
        return f"its weights have deviation {deviation:.3g}, which no usual start gives: its author's choice"
    rounded = max(_ROUNDED, 2 * torch.finfo(layer.stored.dtype).eps)
    if weight.numel() >= _NORMAL[1] and all(_UNIFORM * (1 + rounded) < largest / known < _NORMAL[0] for known in near):
        return "its weights are uniform, except some beyond the bound of the draw: it was trained"
    return why_not_drawn_biases(biases[0], framework_bound(layer)) if biases else ""


def why_not_drawn_biases(values: Values, bound: float) -> str:
    """Say why biases are not a usual start; empty if they are all equal, or may be uniform in ``±bound``."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest <= _NOTHING * bound or np.ptp(values) == 0:
        return ""
    if largest > bound * (1 + 1e-2):  # half precision rounds
        return f"its biases reach {largest:.2g}, beyond every usual start: it was trained, or its author chose them"
    if (largest / bound) ** len(values) < SURE:
        return f"its biases stay below {largest:.2g}, below every usual start: it was trained, or its author chose them"
    return ""
