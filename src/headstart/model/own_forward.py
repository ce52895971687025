"""Layers whose class has its own forward, which may use the weight in another way than torch's layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from headstart.errors import WriteError
from headstart.model.weights import LAYERS, Layer

_PLAIN = {getattr(cls, name) for cls in LAYERS for name in ("forward", "_conv_forward") if hasattr(cls, name)}


def has_own_forward(layer: Layer) -> bool:
    """Whether a subclass, or the module itself, has its own forward."""
    cls = type(layer.module)
    own = {getattr(cls, n) for n in ("forward", "_conv_forward") if hasattr(cls, n)}
    return not own <= _PLAIN or "forward" in layer.module.__dict__


def require_affine(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
    """Check that a subclass with its own forward is affine in its weight: compute two samples again and compare.

    Args:
        layer: The layer, after its weight was rescaled.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        output: The output of the call, rescaled likewise.

    Raises:
        WriteError: The layer's output is another one.
    """
    module, cls = layer.module, type(layer.module)
    if layer.inside:  # its output was computed from its weight, or by torch's own code
        return
    if not has_own_forward(layer):
        return
    try:
        again = module.forward(*(a[:2] if isinstance(a, Tensor) else a for a in args), **kwargs)
    except RuntimeError:  # without a batch axis, or with a fixed batch size
        again = module.forward(*args, **kwargs)
    part = output[: len(again)]
    error = float((again - part).abs().float().max())
    if not error <= 0.02 * max(float(part.abs().float().max()), math.sqrt(torch.finfo(output.dtype).tiny)):
        raise WriteError(
            f"Rescaling the weight of {layer.where} did not rescale its output (off by {error:.3g}):"
            f" {cls.__name__} is not affine in its weight (weight standardization, for instance).",
            remedy=f"Pass exclude='{layer.name}' (or exclude={cls.__name__}).",
        )
