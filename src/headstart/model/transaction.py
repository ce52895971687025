"""Put a model back as it was: everything on an error, everything but what was marked as written otherwise."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from headstart.model.weights import Layer, is_plain, refresh, to_canonical


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was written; None where torch does not count (inference tensors)."""
    return None if tensor.is_inference() else tensor._version


def _dictionaries(module: nn.Module) -> tuple[dict[str, Any], ...]:
    """Where a module keeps what it has."""
    return vars(module), module._parameters, module._buffers, module._modules


class Transaction:
    """Everything a call may disturb, restored on exit; the weights too unless :meth:`commit` was called.

    Restores parameters that were not marked as written, buffers, the modules' own attributes (training flags
    and what a forward stores among them) and attention's fast path in any case. Copies every parameter and
    buffer once, so it needs the memory of one more model.

    Args:
        model: The model to protect. It is put in evaluation mode inside.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._committed = False
        self._written: set[int] = set()
        self._at_success: list[Callable[[], None]] = []

    def mark(self, layer: Layer, *, bias: bool = False) -> None:
        """Say that the layer's weight (or bias) is meant to change."""
        tensors = [layer.module.bias] if bias else [*layer.weight_parameters(), *layer.weight_buffers()]
        self._written.update(id(t) for t in tensors)

    def mark_tensor(self, tensor: Tensor) -> None:
        """Say that a buffer, or a parameter that no weight layer has, is meant to change."""
        self._written.add(id(tensor))

    def at_success(self, action: Callable[[], None]) -> None:
        """Do something when the call has ended without an error."""
        self._at_success.append(action)

    def commit(self) -> None:
        """Keep what was marked as written."""
        self._committed = True

    def __enter__(self) -> Transaction:
        self._held = [[(d, dict(d)) for d in _dictionaries(m)] for m in self.model.modules()]
        tensors = {id(t): t for t in [*self.model.parameters(), *self.model.buffers()]}
        self._saved = [(t, t.detach().clone(), _version(t)) for t in tensors.values()]
        self._buffers = {id(b) for b in self.model.buffers()}
        self._index = {key: i for i, key in enumerate(tensors)}
        self._fastpath = torch.backends.mha.get_fastpath_enabled()
        # The fused attention path skips the layers inside it, and with them their hooks.
        torch.backends.mha.set_fastpath_enabled(False)
        self.model.eval()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        keep = self._written if self._committed and kind is None else set()
        for tensor, copy, version in self._saved:
            if id(tensor) in keep:
                continue
            # Batch norm moves its running statistics without counting it as a write: compare them.
            uncounted = version is None or id(tensor) in self._buffers
            if _version(tensor) != version or (uncounted and not torch.equal(tensor, copy)):
                with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                    tensor.copy_(copy)
        for held in self._held:  # a forward may have put new tensors in the place of these, or beside them
            for dictionary, content in held:
                dictionary.clear()
                dictionary.update(content)
        for module in self.model.modules():
            refresh(module)
        torch.backends.mha.set_fastpath_enabled(self._fastpath)
        for action in self._at_success if kind is None else ():
            action()

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor was there on entry, and not put there by a forward pass."""
        return id(tensor) in self._index

    def original(self, layer: Layer) -> Tensor | None:
        """The layer's weight as it was on entry, canonical (not to be written); None if it is not a parameter."""
        if not is_plain(layer):
            return None
        place = self._index[id(layer.module.weight)]
        return to_canonical(layer, self._saved[place][1])

    def changed(self) -> dict[int, Tensor]:
        """Marked parameters, and buffers that changed, by ``id``, as copies of their present values."""
        marked = [(t, copy) for t, copy, _ in self._saved if id(t) in self._written]
        return {id(t): t.detach().clone() for t, c in marked if id(t) not in self._buffers or not torch.equal(t, c)}
