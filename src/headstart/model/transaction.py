"""Restore a model: everything after an error, and otherwise everything that was not marked as written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType

import torch
from torch import Tensor, nn

from headstart.errors import HeadstartError, ModelError, WriteError
from headstart.model.model_state import Held, hold
from headstart.model.tensor_state import HeldTensor, restore_together
from headstart.model.weights import Layer, is_plain, refresh, to_canonical
from headstart.restoring import Step, every, put_back, raise_lost


class Transaction:
    """Restores on exit everything that a call may change; the weights too, unless :meth:`commit` was called.

    This covers what the modules hold (see :func:`~headstart.model.model_state.hold`): parameters that were not marked
    as written, buffers, gradients, other tensors, attributes, hooks, training flags and the modules themselves, and
    attention's fast path. Every tensor is copied once, which needs the memory of one more model.

    Every step is tried, whatever fails. If something cannot be restored, an error names it at the end, and then
    no written value is kept.

    Args:
        model: The model to protect. It is put in evaluation mode inside.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._committed = False
        self._written: set[int] = set()
        self._followed: set[int] = set()
        self._shaped: set[int] = set()
        self._at_success: list[Callable[[], None]] = []
        self._held: list[Held] = []
        self._start: list[Held] = []
        self._tensors: dict[int, HeldTensor] = {}

    def mark(self, layer: Layer, *, bias: bool = False) -> None:
        """Mark the layer's weight (or bias) as meant to change.

        Raises:
            WriteError: The forward pass has put another tensor in its place, which will be removed.
        """
        own = layer.bias_parameter
        tensors = ([] if own is None else [own]) if bias else [*layer.weight_parameters(), *layer.weight_buffers()]
        for tensor in tensors:
            if not self.holds(tensor):
                raise _replaced(layer.where)
        self._written.update(id(t) for t in tensors)

    def forget(self, layer: Layer) -> None:
        """Unmark the layer's weight and bias: they will be restored."""
        if not layer.inside:  # what several share may be written by others
            tensors = [*layer.weight_parameters(), *layer.weight_buffers(), layer.bias_parameter]
            self._written.difference_update(map(id, tensors))

    def mark_tensor(self, tensor: Tensor) -> None:
        """Mark a buffer, or a parameter outside the weight layers, as meant to change.

        If the forward pass replaces it, the original tensor gets the values of the last replacement.

        Raises:
            WriteError: Neither the tensor nor one that it replaced was there on entry.
        """
        if not self.holds(tensor):
            before = next((h.tensor for h in self._tensors.values() if _present(h) is tensor), None)
            if before is None:
                raise _replaced(f"a tensor of shape {tuple(tensor.shape)}")
            tensor = before
        self._written.add(id(tensor))
        self._followed.add(id(tensor))

    def mark_shaped(self, modules: Iterable[nn.Module]) -> None:
        """Mark lazy modules that got their shapes inside: they keep them."""
        for module in modules:
            self._shaped.add(id(module))
            self._written.update(id(t) for t in [*module._parameters.values(), *module._buffers.values()])

    def at_success(self, action: Callable[[], None]) -> None:
        """Call a function once the call has ended without an error."""
        self._at_success.append(action)

    def commit(self) -> None:
        """Keep what was marked as written.

        Raises:
            HeadstartError: The forward pass has changed its shape, or put something else in its place.
        """
        self._settle()
        self._committed = True

    def begin(self) -> None:
        """Remember the present state of the model, to which :meth:`rewind` returns."""
        same = {h.key: h.values for h in self._tensors.values() if h.key is not None and h.is_untouched()}
        self._start = hold(self.model, same)

    def rewind(self, keep: Iterable[Tensor] = ()) -> None:
        """Undo what forward passes have changed so far, except written values: the next pass starts from a fresh model.

        What a pass of two samples starts (a first-batch initialization, a cache, a counter) would otherwise influence
        the measurements on the batch. Do not call this inside hooks, or while anything else has changed the model
        temporarily.

        Args:
            keep: Tensors whose values stay, in addition to those marked as written.

        Raises:
            HeadstartError: A pass has changed the shape of a parameter that was written.
        """
        for held in self._tensors.values():
            if id(held.tensor) in self._followed:
                self._follow(held)
            if id(held.tensor) in self._written - self._buffers and id(held.owner) not in self._shaped:
                held.require_form()
        _, interrupt = every(self._restoring(self._start, self._written | {id(t) for t in keep}))
        if interrupt is not None:
            raise interrupt  # what cannot be restored is named in the end

    def _settle(self) -> list[HeldTensor]:
        """Move the new values to the tensors that were there on entry, and list those."""
        marked = [h for h in self._tensors.values() if id(h.tensor) in self._written]
        for held in marked:
            if id(held.owner) in self._shaped:
                continue
            if not self._follow(held):
                raise _replaced(f"'{held.name}'")
            if id(held.tensor) in self._buffers and not held.has_form():
                self._written.discard(id(held.tensor))  # a buffer that a forward resizes is its own state: put back
                continue
            held.require_form()
        return [h for h in marked if id(h.tensor) in self._written]

    def _follow(self, held: HeldTensor) -> bool:
        """Give a tensor the values of what is now in its place; return whether that was possible."""
        present = _present(held)
        if present is None or present is held.tensor:
            return True
        alike = present.shape == held.tensor.shape and present.layout == held.tensor.layout
        if id(held.tensor) not in self._followed or not alike:
            return False
        held.tensor.data = present.detach().to(held.tensor.device)
        return True

    def __enter__(self) -> Transaction:
        self._fastpath = torch.backends.mha.get_fastpath_enabled()
        try:
            held = hold(self.model)
            self._tensors = {id(h.tensor): h for h in held if isinstance(h, HeldTensor)}
            self._buffers = {id(b) for b in self.model.buffers()}
            self._registered = {id(p) for p in self.model.parameters()} | self._buffers
            self._training = [(m, m.training) for m in self.model.modules()]
            self._held = held
            # The fused attention path skips the layers inside it, and with them their hooks.
            torch.backends.mha.set_fastpath_enabled(False)
            self.model.eval()
            self.begin()
        except BaseException as error:
            put_back(self._steps(set()), error)
            if isinstance(error, HeadstartError) or not isinstance(error, Exception):
                raise
            raise ModelError(
                f"{type(self.model).__name__} cannot be copied and put in evaluation mode:"
                f" {type(error).__name__}: {str(error).rstrip('.')}.",
                remedy="Check its train() and eval(), and that there is memory for a copy of its tensors.",
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        keep = self._written if self._committed and kind is None else set()
        stop: BaseException | None = None
        try:
            failures, stop = every(self._steps(keep))
            for action in () if kind or failures or stop else self._at_success:
                action()
        except BaseException as error:
            failures, stop = [], error
        if keep and (failures or stop):  # the call has failed after all
            failures = every(self._steps(set()))[0] or failures
        raise_lost(failures, stop or value)
        if stop is not None:
            raise stop

    def _steps(self, keep: set[int]) -> list[Step]:
        """The steps that restore the model's state on entry, except for the values of these tensors."""
        steps = self._restoring(self._held, keep)
        for module, training in self._training if self._held else ():
            if id(module) in self._shaped:
                steps.append(("training", partial(setattr, module, "training", training)))
        steps.append(("attention's fast path", partial(torch.backends.mha.set_fastpath_enabled, self._fastpath)))
        return steps

    def _restoring(self, held: Sequence[Held], keep: set[int]) -> list[Step]:
        tensors = [h for h in held if isinstance(h, HeldTensor)]
        kept = [h for h in tensors if id(h.tensor) in keep]
        places = {h.place for h in kept} - {None}
        shared = {h.place for h in tensors if id(h.tensor) not in keep and h.place in places}
        again = [(h, h.now()) for h in kept if h.place in shared]  # what else lies there gets its old values first
        back = [h for h in tensors if id(h.tensor) not in keep and not (keep and id(h.owner) in self._shaped)]
        steps: list[Step] = [("values", partial(restore_together, back))]
        steps += [(h.name, _way_back(h, keep)) for h in held if not (keep and id(h.owner) in self._shaped)]
        steps += [(h.name, partial(h.write, values)) for h, values in again]
        written = [m for m in self.model.modules() if any(id(p) in keep for p in m._parameters.values())]
        return steps + [(type(m).__name__, partial(refresh, m)) for m in written]

    def holds(self, tensor: Tensor) -> bool:
        """Whether a parameter or buffer was there on entry, and was not created by a forward pass."""
        return id(tensor) in self._registered

    def original(self, layer: Layer) -> Tensor | None:
        """The layer's weight on entry, canonical (read-only); None if it is not a parameter.

        Raises:
            WriteError: The forward pass has put another parameter in its place.
        """
        if not is_plain(layer):
            return None
        parameter = layer.module._parameters[layer.parameter]
        if not self.holds(parameter):
            raise _replaced(layer.where)
        return to_canonical(layer, layer.own(self._tensors[id(parameter)].values))

    def changed(self) -> dict[int, Tensor]:
        """Marked parameters, and buffers that changed, by ``id``, as copies of their present values.

        Raises:
            HeadstartError: As :meth:`commit`.
        """
        marked = self._settle()
        return {id(h.tensor): h.now() for h in marked if id(h.tensor) not in self._buffers or h.changed()}


def _way_back(held: Held, keep: set[int]) -> Callable[[], None]:
    return partial(held.restore, id(held.tensor) in keep) if isinstance(held, HeldTensor) else held.restore


def _present(held: HeldTensor) -> Tensor | None:
    """The parameter or buffer that is now in the place of a tensor on entry."""
    key, owner = held.name.rpartition(".")[2], held.owner
    return None if owner is None else owner._parameters.get(key, owner._buffers.get(key))


def _replaced(what: str) -> WriteError:
    return WriteError(
        f"The model's forward has put another tensor in the place of {what}, so a write to it would be lost.",
        remedy="Exclude the layer that it belongs to, or let its forward write in place.",
    )
