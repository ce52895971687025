"""Copy and restore many tensors at once, with one operation for each dtype and device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy as waits

Form = tuple[Any, ...]


def form(tensor: Tensor) -> Form | None:
    """The memory and shape of a plain tensor; None for tensors that are not plain.

    Plain tensors are dense, in memory of their own: not lazy, sparse, nested, quantized, conjugated or inference
    tensors, and not of a class with its own dispatch.
    """
    odd = (
        waits(tensor)
        or tensor.layout is not torch.strided
        or tensor.is_nested
        or tensor.is_quantized
        or tensor.is_inference()
        or tensor.is_meta
        or tensor.is_conj()
        or tensor.is_neg()
        or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    )
    if odd:
        return None
    try:
        storage = tensor.untyped_storage()
    except RuntimeError:  # NotImplementedError is one
        return None
    shape = tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
    return (storage._cdata, *shape, tensor.dtype, tensor.device) if storage.data_ptr() else None


def at(storage: torch.UntypedStorage, where: Form) -> Tensor:
    """A tensor on that memory."""
    _, shape, stride, offset, dtype, device = where
    return torch.empty(0, dtype=dtype, device=device).set_(storage, offset, shape, stride)


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy plain tensors, with one operation for each dtype and device."""
    found: list[Tensor | None] = [None] * len(tensors)
    for members in _by_kind(tensors):
        some = [tensors[i] for i in members]
        for i, copy in zip(members, torch.ops.aten._foreach_copy(some, some), strict=True):
            found[i] = copy
    return [copy for copy in found if copy is not None]


def write(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write values of the same dtype into plain tensors, with one operation for each dtype and device.

    Autograd does not count this as a write: the values are those from which the graph was made.
    """
    versions = [tensor._version for tensor in tensors]
    for members in _by_kind(tensors):
        torch._foreach_copy_([tensors[i] for i in members], [values[i] for i in members])
    set_versions(tensors, versions)


def may_be_written(tensor: Tensor) -> bool:
    """Whether a plain tensor is in torch's own memory, not in a file or a read-only array, without overlap."""
    repeats = any(step == 0 and size > 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return not repeats and tensor.untyped_storage().resizable()


def set_versions(tensors: Sequence[Tensor], versions: Sequence[int]) -> None:
    """Set autograd's counts of how often tensors were written."""
    setter: Any = torch._C._autograd._unsafe_set_version_counter
    try:
        setter(tuple(tensors), tuple(versions))
    except TypeError:  # before torch 2.6 it takes one
        for tensor, version in zip(tensors, versions, strict=True):
            setter(tensor, version)


def _by_kind(tensors: Iterable[Tensor]) -> list[list[int]]:
    kinds: dict[Any, list[int]] = {}
    for i, tensor in enumerate(tensors):
        kinds.setdefault((tensor.device, tensor.dtype), []).append(i)
    return list(kinds.values())
