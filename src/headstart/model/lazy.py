"""Give lazy modules their shapes."""

from __future__ import annotations

import torch
from torch import nn

from headstart import rng
from headstart.model.forward import CurrentLayer, run, run_small
from headstart.model.guard import is_lazy_itself
from headstart.model.inputs import Batch
from headstart.model.model_state import hold
from headstart.restoring import every


def give_shapes(model: nn.Module, batch: Batch, seed: int) -> None:
    """Give lazy modules their shapes; their default weights come from the call's seed."""
    lazy = {id(m) for m in model.modules() if is_lazy_itself(m)}
    training = [(m, m.training) for m in model.modules()]
    held = [h for h in hold(model) if id(h.owner) not in lazy]  # what else the pass sets off is taken back
    model.eval()
    where = CurrentLayer()
    try:
        with rng.untouched(rng.derive(seed, "lazy")), torch.no_grad(), where.following(model):
            run_small(batch, 2, lambda small: run(model, small, where))
    finally:
        _, interrupt = every((h.name, h.restore) for h in held)  # what cannot be restored is named in the end
        for module, flag in training:
            module.training = flag
        if interrupt is not None:
            raise interrupt
