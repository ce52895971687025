"""Give lazy modules their shapes."""

from __future__ import annotations

import torch
from torch import nn

from headstart import rng
from headstart.model.forward import CurrentLayer, run, run_small
from headstart.model.inputs import Batch


def give_shapes(model: nn.Module, batch: Batch, seed: int) -> None:
    """Give lazy modules their shapes; their default weights come from the call's seed."""
    training = [(m, m.training) for m in model.modules()]
    model.eval()
    where = CurrentLayer()
    try:
        with rng.untouched(rng.derive(seed, "lazy")), torch.no_grad(), where.following(model):
            run_small(batch, 2, lambda small: run(model, small, where))
    finally:
        for module, flag in training:
            module.training = flag
