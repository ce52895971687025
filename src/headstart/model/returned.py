"""The tensors in what a model returns, in any container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

_NO_HOLDERS = (type, FunctionType, MethodType, ModuleType, nn.Module, str, bytes)


def all_tensors(value: Any) -> list[Tensor]:
    """All tensors in what a model returns: in dicts, sequences, data classes and other objects, also nested.

    Example:
        >>> import torch
        >>> both = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
        >>> len(all_tensors({"latent": both, "parts": [(torch.zeros(3),)]}))
        3
    """
    found: list[Tensor] = []
    _gather(value, found, set())
    return found


def _gather(value: Any, found: list[Tensor], seen: set[int]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
        return
    if id(value) in seen or isinstance(value, _NO_HOLDERS):
        return
    seen.add(id(value))
    for part in _parts(value):
        _gather(part, found, seen)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (tuple, list)):
        return list(value)
    if is_dataclass(value):
        return [getattr(value, f.name, None) for f in fields(value)]
    return list(getattr(value, "__dict__", {}).values())
