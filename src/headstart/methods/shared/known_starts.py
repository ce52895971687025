"""Whether a layer still has a start that everyone has, or weights that its author chose."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from headstart.model import weights
from headstart.model.weights import Layer
from headstart.numerics.draws import why_not_drawn

TOO_FEW = "too few to tell"
TOLERANCE = 0.03  # of a deviation: leaky slopes and truncation move it by less
_GAINS = {"lecun": 1.0, "kaiming": math.sqrt(2), "tanh": 5 / 3}


def known_deviations(layer: Layer, normed: bool) -> Iterator[tuple[str, float]]:
    """List the deviations of starts on which recipes were tried, with their names.

    Args:
        layer: Gives the fans: as torch counts them, which for grouped and transposed layers differ from
            what an output sums, and as they are.
        normed: Whether a normalization takes the output, so that the scale is free.
    """
    taps = math.prod(layer.kernel)
    ins, outs = layer.in_channels // layer.groups * taps, layer.out_channels // layer.groups * taps
    if layer.kind == "transposed":  # torch takes the stored axes
        fans_in, fans_out = {float(outs), layer.fan_in}, {float(layer.in_channels * taps), float(outs)}
        default = outs
    else:
        fans_in, fans_out, default = {float(ins)}, {float(layer.out_channels * taps), float(outs)}, ins
    yield "the framework's", 1 / math.sqrt(3 * default)
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


def why_authors(layer: Layer, normed: bool) -> str:
    """Say why a layer's weights are taken for its author's choice; empty where they are a start that everyone has.

    Args:
        layer: The layer.
        normed: Whether a normalization takes its output.
    """
    weight = weights.look(layer)
    reason = why_not_drawn(weight, layer.groups)
    if reason:
        return f"{reason}: its author's choice" if TOO_FEW not in reason else reason
    size = torch.linalg.vector_norm(weight, dtype=weights.working_dtype(weight.dtype))
    deviation = float(size) / math.sqrt(weight.numel())
    # Of a uniform law the deviation is estimated better than that of a normal one, whose error this is.
    slack = max(TOLERANCE, 5 / math.sqrt(2 * weight.numel()))
    if any(abs(math.log(deviation / known)) <= slack for _, known in known_deviations(layer, normed)):
        return ""
    return f"its weights have deviation {deviation:.3g}, which no usual start gives: its author's choice"
