"""The state of a model before a start by training, and which tensors may change."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from headstart.engine.model_view import ModelView
from headstart.errors import WriteError
from headstart.model import weights
from headstart.results.report import summarize


class BeforeTraining:
    """The state of the model before the stages, and which tensors may change."""

    def __init__(self, view: ModelView) -> None:
        model = view.model
        self._values = {id(t): t.detach().clone() for t in [*model.parameters(), *model.buffers()]}
        everything = [*view.trace.layers, *view.trace.unreached]
        # A layer that is not selected may still train: tied to another, or used without being called.
        self._layers = [la for la in everything if la.name not in view.trace.excluded]
        self._stats = {layer.name: summarize(weights.look(layer)) for layer in self._layers}
        trained = {id(p) for layer in self._layers for p in layer.module.parameters()}
        out = [p for la in everything if la.name in view.trace.excluded for p in la.module.parameters()]
        self.frozen: list[nn.Parameter] = [p for p in out if id(p) not in trained]
        fixed = {id(p) for p in self.frozen}
        self._free: list[Tensor] = []
        for tensor in (t for t in [*model.parameters(), *model.buffers()] if id(t) not in fixed):
            with suppress(WriteError):  # what a forward added is its own state, and is put back
                view.transaction.mark_tensor(tensor)
                self._free.append(tensor)

    def restore(self, tensors: Sequence[Tensor]) -> None:
        """Restore tensors."""
        for tensor in tensors:
            tensor.copy_(self._values[id(tensor)])

    def tell(self, view: ModelView) -> None:
        """Report what changed."""
        own: set[int] = set()
        changed = {id(t) for t in self._free if not torch.equal(t, self._values[id(t)])}
        for layer in self._layers:
            row = view.report.rows[layer.name]
            if any(note.startswith("tied to") for note in row.notes):
                continue  # the owner of the weight tells
            tensors = {id(t) for t in [*layer.module.parameters(), *layer.weight_buffers()]}
            own |= tensors
            if not tensors & changed:
                continue
            row.action = "written"
            row.methods.append(view.method)
            (old_mean, old_std), (mean, std) = self._stats[layer.name], summarize(weights.look(layer))
            row.weight_mean, row.weight_std = (old_mean, mean), (old_std, std)
        named = [*view.model.named_parameters(), *view.model.named_buffers()]
        view.report.other_tensors += [name for name, t in named if id(t) in changed - own]
