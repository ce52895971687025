"""The state of a model's modules at one moment, piece by piece, so that it can be restored.

A forward pass may remove, add or replace pieces.
"""

from __future__ import annotations

import operator
import random
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from functools import partial
from types import MemberDescriptorType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from headstart.model.tensor_state import HeldTensor, copy_together

_CONTAINERS: tuple[type[Any], ...] = (OrderedDict, dict, list, deque, set)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_STATE = (SimpleNamespace, UserDict, UserList)
_EMPTY = object()
_ATOMS = {bool, int, float, str, type(None)}
_OWN = {"_parameters", "_buffers", "_modules"}  # what a module's attributes give access to without their names


class HeldContainer:
    """The present content of a dict, list, deque or set; the items themselves are restored separately."""

    __slots__ = ("_content", "_kind", "container", "name", "owner")  # a module has some twenty of these

    def __init__(self, name: str, container: Any, owner: nn.Module | None = None) -> None:
        self.name, self.owner, self.container = name, owner, container
        # Of the plain class: what a subclass makes of it may not allow it.
        own = type(container)
        self._kind: Any = own if own in _CONTAINERS else next(k for k in _CONTAINERS if isinstance(container, k))
        self._content = self._items() if self._kind.__len__(container) else []

    def _items(self) -> list[Any]:
        """Return what it holds, in order: keys and values in turn."""
        if issubclass(self._kind, dict):
            return [x for item in self._kind.items(self.container) for x in item]
        return list(self._kind.__iter__(self.container))

    def restore(self) -> None:
        """Put its items back, if anything differs."""
        then, kind = self._content, self._kind
        now = self._items() if then or kind.__len__(self.container) else []
        if len(now) == len(then) and all(map(operator.is_, now, then)):
            return
        kind.clear(self.container)
        if issubclass(kind, dict):
            for key, value in zip(then[::2], then[1::2], strict=True):
                kind.__setitem__(self.container, key, value)
        elif kind is set:
            kind.update(self.container, then)
        else:
            kind.extend(self.container, then)


class HeldGenerator:
    """The present state of a random generator of torch, numpy or Python."""

    def __init__(self, name: str, generator: Any, owner: nn.Module | None = None) -> None:
        self.name, self.owner = name, owner
        if isinstance(generator, np.random.Generator):
            self._restore = partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
        elif isinstance(generator, random.Random):
            self._restore = partial(generator.setstate, generator.getstate())
        else:
            self._restore = partial(generator.set_state, generator.get_state())

    def restore(self) -> None:
        """Return it to its earlier state."""
        self._restore()


class HeldArray:
    """The present content of a numpy array, unless it lies in a file or is read-only."""

    def __init__(self, name: str, array: np.ndarray[Any, Any], owner: nn.Module | None = None) -> None:
        self.name, self.owner, self._array, self._copy = name, owner, array, array.copy()

    def restore(self) -> None:
        """Restore its shape and values."""
        if self._array.shape != self._copy.shape:
            self._array.resize(self._copy.shape, refcheck=False)
        self._array[...] = self._copy


class HeldSlots:
    """The slots of an object without a dict of attributes."""

    def __init__(self, name: str, thing: Any, owner: nn.Module | None = None) -> None:
        self.name, self.owner, self._thing = name, owner, thing
        self._slots = {slot: self._value(slot) for slot in _slots(thing)}

    def _value(self, slot: MemberDescriptorType) -> Any:
        try:
            return slot.__get__(self._thing)
        except AttributeError:
            return _EMPTY

    def content(self) -> Iterator[tuple[str, Any]]:
        """Their values, with names."""
        return ((f"{self.name}.{slot.__name__}", value) for slot, value in self._slots.items())

    def restore(self) -> None:
        """Put their values back, past any ``__setattr__`` of the class (a frozen class forbids setting)."""
        for slot, value in self._slots.items():
            if self._value(slot) is value:
                continue
            if value is _EMPTY:
                slot.__delete__(self._thing)
            else:
                slot.__set__(self._thing, value)


def _slots(thing: Any) -> list[MemberDescriptorType]:
    return [m for kind in type(thing).__mro__ for m in vars(kind).values() if isinstance(m, MemberDescriptorType)]


class HeldClass:
    """The class of a module: some modules change their class when they first run."""

    owner: nn.Module | None

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.owner, self._kind = name, module, type(module)

    def restore(self) -> None:
        """Give it that class again."""
        if type(self.owner) is not self._kind:
            self.owner.__class__ = self._kind


Held = HeldTensor | HeldContainer | HeldGenerator | HeldArray | HeldSlots | HeldClass
Copies = dict[Any, Tensor]


def hold(model: nn.Module, copies: Copies | None = None) -> list[Held]:
    """Record everything that the modules of a model hold: tensors, containers, generators, and their contents.

    Containers are dicts, lists, deques, sets and tuples, and objects whose attributes are state: dataclasses,
    namespaces, unregistered modules, and objects of classes from the same packages as the model's own classes,
    except data sets. They are searched to any depth. What is reached in several ways is recorded once.

    Args:
        model: The model; its modules and what they reach are recorded.
        copies: Earlier copies of tensors that are still valid, by ``HeldTensor.key``.
    """
    found = _Holding(model).found
    copy_together((h for h in found if isinstance(h, HeldTensor)), copies)
    return found


class _Holding:
    """A walk over everything that a model holds."""

    def __init__(self, model: nn.Module) -> None:
        self.found: list[Held] = []
        self._seen: dict[int, Any] = {}  # keeps what it has seen alive, so that no other object gets its id
        modules = dict(model.named_modules())
        self._known = {id(m) for m in modules.values()}
        self._packages = {type(m).__module__.partition(".")[0] for m in modules.values()} - {"torch"}
        self._modules = deque(modules.items())
        while self._modules:
            self._module(*self._modules.popleft())

    def _module(self, prefix: str, module: nn.Module) -> None:
        self.found.append(HeldClass(prefix or type(module).__name__, module))
        waiting: deque[tuple[str, Any]] = deque([(prefix, vars(module))])
        while waiting:
            name, value = waiting.popleft()
            if type(value) in _ATOMS or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            waiting += self._thing(name, value, module)

    def _thing(self, name: str, value: Any, module: nn.Module) -> Iterable[tuple[str, Any]]:
        """Record one object; return what is in it."""
        if isinstance(value, Tensor):
            return self._tensor(name, value, module)
        if isinstance(value, _CONTAINERS):
            self.found.append(HeldContainer(name or type(module).__name__, value, module))
            return _inside(name, value, value is vars(module))
        if isinstance(value, tuple):
            return _inside(name, value, False)
        if isinstance(value, nn.Module):
            self._modules += [
                (f"{name}.{inner}".rstrip("."), m) for inner, m in value.named_modules() if id(m) not in self._known
            ]
            self._known.update(map(id, value.modules()))
        elif isinstance(value, _GENERATORS):
            self.found.append(HeldGenerator(name, value, module))
        elif isinstance(value, np.ndarray):
            if value.flags.writeable and not isinstance(value, np.memmap):
                self.found.append(HeldArray(name, value, module))
        elif self._is_state(value):
            slots = HeldSlots(name, value, module)
            self.found.append(slots)
            return [*slots.content(), (name, getattr(value, "__dict__", None))]
        return ()

    def _tensor(self, name: str, value: Tensor, module: nn.Module) -> Iterable[tuple[str, Any]]:
        held = HeldTensor(name, value, module, copy=False)
        if held.grad is not None and id(held.grad) not in self._seen:  # first: only in its own form can it be set
            self._seen[id(held.grad)] = held.grad
            self.found.append(HeldTensor(f"{name}.grad", held.grad, module, copy=False))
        self.found.append(held)
        return [(name, vars(value)), *((f"{name}.{key}", hooks) for key, hooks in held.hooks.items())]

    def _is_state(self, value: Any) -> bool:
        kind = type(value)
        return not isinstance(value, (type, Dataset)) and (
            is_dataclass(kind) or isinstance(value, _STATE) or kind.__module__.partition(".")[0] in self._packages
        )


def _inside(name: str, container: Any, own: bool) -> Iterator[tuple[str, Any]]:
    """What a container holds, with names. For a module: its attributes, without the dicts that hold them."""
    if not isinstance(container, dict):
        yield from ((f"{name}[{i}]", value) for i, value in enumerate(container) if type(value) not in _ATOMS)
        return
    for key, value in dict.items(container):
        if type(value) in _ATOMS:
            continue
        if own and key in _OWN:
            yield from ((f"{name}.{k}".lstrip("."), v) for k, v in value.items())
            yield name, value
        else:
            yield (f"{name}.{key}".lstrip(".") if own else f"{name}[{key!r}]"), value
