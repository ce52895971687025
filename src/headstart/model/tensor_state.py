"""What a tensor is at one moment, and how to make it that again.

A forward pass may write a tensor, resize it, give it other memory, flags, a gradient or hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from headstart.errors import ModelError
from headstart.restoring import put_back

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class HeldTensor:
    """A tensor as it is now: memory, shape, values, class, flags, gradient and hooks.

    An alias of its memory is kept beside a copy of the values. So a tensor that was given other memory finds its own
    again, and goes on sharing it with whatever shares it.

    Args:
        name: For errors.
        tensor: Any; its values are copied.
        owner: The module that it was found in.
        copies: Copies that were made already, by place; tensors of the same place have one together.
    """

    def __init__(
        self, name: str, tensor: Tensor, owner: nn.Module | None = None, copies: dict[Any, Tensor] | None = None
    ) -> None:
        self.name, self.owner, self.tensor, self._kind = name, owner, tensor, type(tensor)
        with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
            self.alias = tensor.detach()
            self._version = _version(tensor)
            self._leaf, self._requires_grad = tensor.is_leaf, tensor.requires_grad
            self.grad = tensor.grad if self._leaf else None
            self.hooks = {key: getattr(tensor, key) for key in _HOOKS} if self._leaf else {}
            self.place, self._room = _memory(self.alias)
            self.key = _key(self.alias, self.place)
            self._copy = _copied(self.alias, self.key, {} if copies is None else copies)

    @property
    def values(self) -> Tensor:
        """The values as they were (not to be written)."""
        return self.alias if self._copy is None else self._copy

    def require_form(self) -> None:
        """Raise if the present values do not fit into the form that the tensor had.

        Raises:
            ModelError: It has another shape, or its memory is gone.
        """
        if not self.has_form():
            was, now = tuple(self.alias.shape), tuple(self.tensor.shape)
            raise ModelError(
                f"'{self.name}' was to be written, and the model's forward"
                f" {'gave its memory away' if was == now else f'made its shape {was} into {now}'}.",
                remedy="Exclude the layer that it belongs to.",
            )

    def has_form(self) -> bool:
        """Whether the present values fit into the form that the tensor had."""
        room = _memory(self.tensor)[1]
        gone = room is not None and room < self.tensor.numel() * self.tensor.element_size()
        return self.tensor.shape == self.alias.shape and not gone

    @torch.no_grad()
    def now(self) -> Tensor:
        """A copy of the present values, in the form that the tensor had."""
        return self.tensor.detach().to(self.alias.device, self.alias.dtype, copy=True)

    def changed(self) -> bool:
        """Whether the values differ from those on entry."""
        return not _same(self.tensor.detach(), self.values)

    @torch.no_grad()
    def restore(self, keep: bool = False) -> None:
        """Make the tensor what it was.

        Args:
            keep: All but its values, which are taken to its own memory.

        Raises:
            RuntimeError: That is not possible.
        """
        tensor, alias = self.tensor, self.alias
        with torch._C.DisableTorchFunctionSubclass(), torch.inference_mode(alias.is_inference()):
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
        with torch._C.DisableTorchFunctionSubclass(), torch.inference_mode(self.alias.is_inference()), torch.no_grad():
            for part, value in zip(_parts(self.alias), _parts(values), strict=True):
                _write_once(part, value)

    def _restore_memory(self, keep: bool) -> None:
        tensor, alias = self.tensor, self.alias
        room = _memory(alias)[1]
        if room is not None and self._room is not None and room != self._room:
            alias.untyped_storage().resize_(self._room)
        if _is_at(tensor, alias):
            return
        if keep:
            self.write(self.now())
        if tensor.is_leaf and tensor.grad is not None:
            tensor.grad = None  # must have the form of its tensor
        tensor.data = alias

    def _restore_values(self) -> None:
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
    """Put tensors back as they were, at the end.

    Raises:
        ModelError: One could not be restored; all others were.
    """
    held = [HeldTensor(name, tensor) for name, tensor in tensors]
    try:
        yield
    except BaseException as error:
        put_back(((h.name, h.restore) for h in held), error)
        raise
    put_back((h.name, h.restore) for h in held)


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was written; None where torch does not count (inference tensors)."""
    return None if tensor.is_inference() else tensor._version


def _memory(tensor: Tensor) -> tuple[int | None, int | None]:
    """Address and size in bytes of what a tensor lies in; None for those that lie in nothing of their own."""
    try:
        storage = tensor.untyped_storage()
        return storage.data_ptr() or None, storage.nbytes()
    except RuntimeError:  # NotImplementedError is one
        return None, None


def _key(alias: Tensor, place: int | None) -> Any:
    """What tensors that can share a copy have in common; None for those that cannot."""
    if place is None or alias.is_nested:
        return None
    return alias.data_ptr(), alias.shape, alias.stride(), alias.dtype, alias.device, alias.is_conj(), alias.is_neg()


def _copied(alias: Tensor, key: Any, copies: dict[Any, Tensor]) -> Tensor | None:
    """The values of a tensor; None where torch cannot copy it."""
    try:
        if key is None:
            return alias.clone()
        if key not in copies:
            copies[key] = alias.clone()
        return copies[key]
    except NotImplementedError:
        return None


def _is_at(tensor: Tensor, alias: Tensor) -> bool:
    """Whether a tensor still lies where its alias does, in the same form."""
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
    """Write a tensor, but not what expanding repeats."""
    plain = tensor.layout is torch.strided and not tensor.is_nested
    for axis, (size, step) in enumerate(zip(tensor.shape, tensor.stride(), strict=True) if plain else ()):
        if step == 0 and size > 1:
            tensor, values = tensor.narrow(axis, 0, 1), values.narrow(axis, 0, 1)
    tensor.copy_(values)


def _same(a: Tensor, b: Tensor) -> bool | None:
    """Whether two tensors agree in every bit, without a copy; None where torch cannot tell."""
    try:
        pairs = list(zip(_parts(a), _parts(b), strict=True))
        return all(torch.equal(_bits(x), _bits(y)) for x, y in pairs)
    except (RuntimeError, TypeError, ValueError):
        return None


def _bits(tensor: Tensor) -> Tensor:
    """A tensor's values as whole numbers, so that NaN equals itself and 0 differs from -0."""
    if tensor.is_quantized:
        return tensor.int_repr()
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.view(_INTEGERS[real.element_size()])
