"""The state of a tensor at one moment, and how to restore it.

A forward pass may write a tensor, resize it, or give it other memory, flags, a gradient or hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy as waits

from headstart.errors import ModelError
from headstart.model import tensors_together
from headstart.model.tensors_together import at, form, may_be_written
from headstart.restoring import put_back

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class HeldTensor:
    """The present state of a tensor: memory, shape, values, class, flags, gradient and hooks.

    A reference to its memory is kept beside a copy of the values. So a tensor that was given other memory gets its own
    back, and still shares it with the tensors that share it.

    Args:
        name: For errors.
        tensor: A tensor of any kind; its values are copied.
        owner: The module that holds it.
        copy: Whether to copy the values now, and not together with others by :func:`copy_together`.
    """

    def __init__(self, name: str, tensor: Tensor, owner: nn.Module | None = None, *, copy: bool = True) -> None:
        self.name, self.owner, self.tensor, self._kind = name, owner, tensor, type(tensor)
        with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
            self._form = form(tensor)
            self._storage = tensor.untyped_storage() if self._form else None
            self._alias = None if self._form else tensor.detach()
            self._shape = None if waits(tensor) else tensor.shape
            self._dtype, self._device = tensor.dtype, tensor.device
            self._inference, self._is_back = tensor.is_inference(), False
            self._version = _version(tensor)
            self._leaf, self._requires_grad = tensor.is_leaf, tensor.requires_grad
            self.grad = tensor.grad if self._leaf else None
            self.hooks = {key: getattr(tensor, key) for key in _HOOKS} if self._leaf else {}
            self.place, self._room = _memory(tensor if self._alias is None else self._alias)
            self._copy = _copied(tensor if self._alias is None else self._alias) if copy or not self._form else None

    @property
    def key(self) -> Any:
        """A key that is the same for tensors that can share a copy; None if it cannot share one."""
        return self._form

    def is_untouched(self) -> bool:
        """Whether nothing has written the tensor since, or moved it, as far as autograd counts."""
        return form(self.tensor) == self._form and _version(self.tensor) == self._version

    @property
    def alias(self) -> Tensor:
        """A tensor on the memory that this one had."""
        if self._alias is None:
            assert self._form is not None
            assert self._storage is not None
            here = form(self.tensor) == self._form
            self._alias = self.tensor.detach() if here else at(self._storage, self._form)
        return self._alias

    @property
    def values(self) -> Tensor:
        """The values as they were (not to be written)."""
        return self.alias if self._copy is None else self._copy

    def require_form(self) -> None:
        """Raise if the present values do not fit the shape that the tensor had.

        Raises:
            ModelError: It has another shape, or its memory was released.
        """
        if not self.has_form():
            was, now = tuple(self._shape or ()), tuple(self.tensor.shape)
            raise ModelError(
                f"'{self.name}' was to be written, and the model's forward"
                f" {'gave its memory away' if was == now else f'made its shape {was} into {now}'}.",
                remedy="Exclude the layer that it belongs to.",
            )

    def has_form(self) -> bool:
        """Whether the present values fit the shape that the tensor had."""
        room = _memory(self.tensor)[1]
        gone = room is not None and room < self.tensor.numel() * self.tensor.element_size()
        return self.tensor.shape == self._shape and not gone

    @torch.no_grad()
    def now(self) -> Tensor:
        """A copy of the present values, in the shape that the tensor had."""
        return self.tensor.detach().to(self._device, self._dtype, copy=True)

    def changed(self) -> bool:
        """Whether the values differ from those on entry."""
        return not _same(self.tensor.detach(), self.values)

    @torch.no_grad()
    def restore(self, keep: bool = False) -> None:
        """Restore the tensor.

        Args:
            keep: Keep its present values; they are moved to its own memory.

        Raises:
            RuntimeError: It cannot be restored.
        """
        tensor = self.tensor
        with torch._C.DisableTorchFunctionSubclass(), torch.inference_mode(self._inference):
            if type(tensor) is not self._kind:
                tensor.__class__ = self._kind
            self._restore_memory(keep)
            if not keep:
                self._restore_values()
            if not self._leaf:
                if tensor.is_leaf:
                    raise RuntimeError("it was detached from the graph that made it")
                return
            if not tensor.is_leaf:
                self._detach()
            if tensor.requires_grad != self._requires_grad:
                tensor.requires_grad_(self._requires_grad)
            if tensor.grad is not self.grad:
                tensor.grad = self.grad
            for key, hooks in self.hooks.items():
                if getattr(tensor, key) is not hooks:
                    setattr(tensor, key, hooks)

    def _detach(self) -> None:
        try:
            self.tensor.detach_()
        except RuntimeError:  # a view cannot be; as something of its own in the same memory it can
            own = self.tensor.__dict__
            torch.utils.swap_tensors(self.tensor, self.alias.detach())
            self.tensor.__class__, self.tensor.__dict__ = self._kind, own

    def write(self, values: Tensor) -> None:
        """Set the values."""
        with torch._C.DisableTorchFunctionSubclass(), torch.inference_mode(self._inference), torch.no_grad():
            for part, value in zip(_parts(self.alias), _parts(values), strict=True):
                _write_once(part, value)

    def _restore_memory(self, keep: bool) -> None:
        tensor = self.tensor
        room = self._storage.nbytes() if self._storage is not None else _memory(self.alias)[1]
        if room is not None and self._room is not None and room != self._room:
            self.alias.untyped_storage().resize_(self._room)
        if form(tensor) == self._form if self._form else _is_at(tensor, self.alias):
            return
        if keep and self.has_form():  # else its memory is gone, and the values with it
            self.write(self.now())
        if tensor.is_leaf and tensor.grad is not None:
            tensor.grad = None  # must have the form of its tensor
        tensor.data = self.alias

    def is_simple(self) -> bool:
        """Whether it can be restored together with others: it is still where it was, in memory of torch's own."""
        there = self._copy is not None and self._storage is not None and self._storage.nbytes() == self._room
        return there and form(self.tensor) == self._form and may_be_written(self.tensor)

    def _restore_values(self) -> None:
        if self._is_back:
            self._is_back = False
            return
        counted = _version(self.tensor) != self._version
        if self._copy is None:
            if counted:
                raise RuntimeError("its values could not be copied beforehand")
            return
        # What is written through .data is not counted, nor what batch norm does to its statistics.
        if not counted and _same(self.alias, self._copy) is not False:
            return
        try:
            self.write(self._copy)
        except RuntimeError:
            if not _same(self.alias, self._copy):  # repeated memory is mended through what it repeats
                raise


@contextmanager
def restored(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[None]:
    """Restore tensors at the end.

    Raises:
        ModelError: One could not be restored; all others were.
    """
    held = hold_tensors(tensors)
    try:
        yield
    except BaseException as error:
        restore_together(held)
        put_back(((h.name, h.restore) for h in held), error)
        raise
    restore_together(held)
    put_back((h.name, h.restore) for h in held)


def hold_tensors(tensors: Iterable[tuple[str, Tensor]]) -> list[HeldTensor]:
    """Record tensors by their names; all copies are made at once."""
    held = [HeldTensor(name, tensor, copy=False) for name, tensor in tensors]
    copy_together(held)
    return held


def copy_together(held: Iterable[HeldTensor], known: Mapping[Any, Tensor] | None = None) -> None:
    """Copy the values of all that have no copy yet; tensors on the same memory with the same form share one copy.

    Args:
        held: The tensors.
        known: Earlier copies that are still valid, by ``HeldTensor.key``.
    """
    waiting: dict[Any, list[HeldTensor]] = {}
    for h in held:
        if h._form is not None and h._copy is None:
            if known and h.key in known:
                h._copy = known[h.key]
            else:
                waiting.setdefault(h.key, []).append(h)
    with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
        made = tensors_together.copies([same[0].tensor for same in waiting.values()])
    for same, copy in zip(waiting.values(), made, strict=True):
        for h in same:
            h._copy = copy


def restore_together(held: Iterable[HeldTensor]) -> None:
    """Restore the values of as many tensors as possible at once; :meth:`HeldTensor.restore` does the rest."""
    with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
        simple = [h for h in held if h.is_simple()]
        with suppress(RuntimeError):  # each by itself then, so that those that fail are named
            tensors_together.write([h.tensor for h in simple], [h.values for h in simple])
            for h in simple:
                h._is_back = True


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was written; None if torch does not count (inference tensors)."""
    return None if tensor.is_inference() else tensor._version


def _memory(tensor: Tensor) -> tuple[int | None, int | None]:
    """Address and size in bytes of a tensor's memory; None if it has no memory of its own."""
    try:
        storage = tensor.untyped_storage()
        return storage.data_ptr() or None, storage.nbytes()
    except RuntimeError:  # NotImplementedError is one
        return None, None


def _copied(alias: Tensor) -> Tensor | None:
    """The values of a tensor; None where torch cannot copy it."""
    try:
        return alias.clone()
    except NotImplementedError:
        return None


def _is_at(tensor: Tensor, alias: Tensor) -> bool:
    """Whether a tensor is still on the memory of its alias, in the same form."""
    try:
        same = tensor.dtype == alias.dtype and tensor.is_conj() == alias.is_conj() and tensor.is_neg() == alias.is_neg()
        return same and tensor.is_set_to(alias)
    except RuntimeError:  # NotImplementedError is one
        return False


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that a tensor consists of."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)


def _write_once(tensor: Tensor, values: Tensor) -> None:
    """Write a tensor; each memory cell of an expanded tensor is written once."""
    plain = tensor.layout is torch.strided and not tensor.is_nested
    for axis, (size, step) in enumerate(zip(tensor.shape, tensor.stride(), strict=True) if plain else ()):
        if step == 0 and size > 1:
            tensor, values = tensor.narrow(axis, 0, 1), values.narrow(axis, 0, 1)
    tensor.copy_(values)


def _same(a: Tensor, b: Tensor) -> bool | None:
    """Whether two tensors agree in every bit, compared without a copy; None if torch cannot tell."""
    try:
        pairs = list(zip(_parts(a), _parts(b), strict=True))
        return all(torch.equal(_bits(x), _bits(y)) for x, y in pairs)
    except (RuntimeError, TypeError, ValueError):
        return None


def _bits(tensor: Tensor) -> Tensor:
    """A tensor's bits as integers, so that NaN equals itself and 0 differs from -0."""
    if tensor.is_quantized:
        return tensor.int_repr()
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.view(_INTEGERS[real.element_size()])
