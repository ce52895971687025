"""Modules that run several times in one forward pass: on their own earlier outputs, or on other inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from headstart import rng
from headstart.errors import HeadstartError
from headstart.model.forward import by_layer, first_input, run
from headstart.model.hooks import hooked
from headstart.model.inputs import Batch
from headstart.model.weights import Layer

ALIKE = 2.0  # factor between the sizes of inputs that still look alike
_PUSH = 0.5  # how far an output is moved, in its own size
_SAME = 1e-5  # of the largest value: what arithmetic in another order may change


def study_calls(
    model: nn.Module, batch: Batch, layers: Sequence[Layer], calls: Mapping[str, int]
) -> tuple[set[str], set[str]]:
    """Of the layers that run several times, tell which depend on an earlier step, and which see inputs of other scales.

    This takes two passes. The second changes the first output of each such layer: a later input that changes too
    depends on an earlier step. So it does not matter how the model passes its state on.

    Args:
        model: In evaluation mode.
        batch: Two samples or so.
        layers: The layers of the model.
        calls: How often each layer ran.

    Returns:
        Names of layers that run on their own earlier outputs, and names of others whose inputs differ in scale.

    Cost: nothing if no layer runs twice, else two passes of the batch.
    """
    several = [layer for layer in layers if calls.get(layer.name, 0) > 1]
    if not several:
        return set(), set()
    try:
        plain, moved = _inputs(model, batch, several, move=False), _inputs(model, batch, several, move=True)
    except HeadstartError:  # a second pass of the same input fails: the model keeps a state
        return {layer.name for layer in several}, set()
    recurrent = {name for name in plain if _changed(plain[name], moved.get(name, []))}
    unlike = {name for name, values in plain.items() if name not in recurrent and not _alike(values)}
    return recurrent, unlike


def _inputs(model: nn.Module, batch: Batch, layers: Sequence[Layer], *, move: bool) -> dict[str, list[Tensor]]:
    """The inputs of the layers, call by call."""
    seen: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    noise = torch.Generator().manual_seed(0)

    def enter(layer: Layer, args: Any, kwargs: Any) -> None:
        value = first_input(args, kwargs)
        if isinstance(value, Tensor):
            seen[layer.name].append(value.detach().clone())

    def leave(layer: Layer, args: Any, kwargs: Any, output: Any) -> Any:
        if not move or len(seen[layer.name]) != 1 or not isinstance(output, Tensor):
            return None
        size = max(float(output.abs().float().mean()), 1e-3)
        return output + _PUSH * size * torch.randn(output.shape, generator=noise).to(output)

    own: AbstractContextManager[Any] = nullcontext() if torch.is_inference_mode_enabled() else torch.no_grad()
    with own, rng.untouched(0), hooked(by_layer(layers), enter, leave):
        run(model, batch.head(batch.size))
    return seen


def _changed(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    if len(before) != len(after):
        return True
    return any(
        a.shape != b.shape or bool((a - b).abs().max() > _SAME * max(float(a.abs().max()), 1e-6))
        for a, b in zip(before[1:], after[1:], strict=True)
        if a.numel()
    )


def _alike(values: Sequence[Tensor]) -> bool:
    sizes = [float(v.abs().float().square().mean().sqrt()) for v in values if v.numel()]
    low, high = min(sizes), max(sizes)
    return high == 0 or (low > 0 and math.isfinite(high) and high / low <= ALIKE)
