"""Whether a model computes the same function before and after a change, up to rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from headstart.model.forward import run
from headstart.model.inputs import Batch
from headstart.model.returned import all_tensors

_LOOKED_AT = 16  # samples that tell
_COARSE = {torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of the outputs' size: how far rounding moves these formats


def outputs(model: Callable[..., Any], batch: Batch) -> list[Tensor]:
    """A model's floating-point outputs for up to 16 samples.

    Args:
        model: In evaluation mode.
        batch: The batch. It does not change, even if the model writes into its input.

    Raises:
        ModelError: The model's forward failed.
    """
    with torch.no_grad():
        returned = run(model, batch.head(_LOOKED_AT))
    return [t.clone() for t in all_tensors(returned) if t.is_floating_point()]


def change(before: Sequence[Tensor], after: Sequence[Tensor], rounding: float = 1e-3) -> float:
    """How much outputs differ, relative to their size; 0 if it is only rounding.

    Args:
        before: Outputs before; values that are not finite are ignored.
        after: Outputs after, of the same shapes.
        rounding: The largest difference that counts as rounding, as a share of the largest value. If an output is in
            half precision, the network computes in it, and 0.05 (bfloat16) or 0.01 (float16) is used instead.

    Example:
        >>> change([torch.tensor([1.0, -4.0])], [torch.tensor([1.0, -3.0])])
        0.25
    """
    largest = 0.0
    for old, new in zip(before, after, strict=True):
        finite = torch.isfinite(old)
        if bool(finite.any()):
            a, b = old[finite].double(), new[finite].double()
            error = float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))
            largest = max(largest, math.inf if math.isnan(error) else error)
    limit = max((_COARSE.get(t.dtype, rounding) for t in before), default=rounding)
    return largest if largest > limit else 0.0
