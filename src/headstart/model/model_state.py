"""What the modules of a model hold at one moment, each thing on its own, so that it can be put back.

A forward pass may take away what is there, put something beside it, or put something else in its place.
"""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from headstart.model.tensor_state import HeldTensor

_CONTAINERS: tuple[type[Any], ...] = (OrderedDict, dict, list, deque, set)
_ATOMS = {bool, int, float, str, type(None)}
_OWN = {"_parameters", "_buffers", "_modules"}  # what a module's attributes give access to without their names


class HeldContainer:
    """A dict, list, deque or set as it is now; its items are restored by themselves."""

    __slots__ = ("_content", "_kind", "container", "name", "owner")  # a module has some twenty of these

    def __init__(self, name: str, container: Any, owner: nn.Module | None = None) -> None:
        self.name, self.owner, self.container = name, owner, container
        # Of the plain class: what a subclass makes of it may not allow it.
        own = type(container)
        self._kind: Any = own if own in _CONTAINERS else next(k for k in _CONTAINERS if isinstance(container, k))
        self._content = self._items() if self._kind.__len__(container) else []

    def _items(self) -> list[Any]:
        """Return what it holds, in order; keys and values in turn."""
        if issubclass(self._kind, dict):
            return [x for item in self._kind.items(self.container) for x in item]
        return list(self._kind.__iter__(self.container))

    def restore(self) -> None:
        """Put back what was in it, if anything differs."""
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
    """A random generator as it is now."""

    def __init__(self, name: str, generator: torch.Generator, owner: nn.Module | None = None) -> None:
        self.name, self.owner, self._generator = name, owner, generator
        self._state = generator.get_state()

    def restore(self) -> None:
        """Take it back to where it was."""
        self._generator.set_state(self._state)


class HeldClass:
    """The class of a module: some make themselves another one when they first run."""

    owner: nn.Module | None

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.owner, self._kind = name, module, type(module)

    def restore(self) -> None:
        """Make it of that class again."""
        if type(self.owner) is not self._kind:
            self.owner.__class__ = self._kind


Held = HeldTensor | HeldContainer | HeldGenerator | HeldClass


def hold(model: nn.Module) -> list[Held]:
    """Take down everything that the modules of a model hold: tensors, containers, generators, and what is in them.

    Containers are dicts, lists, deques, sets and tuples, in each other to any depth. Other objects are not looked
    into. What is reached in several ways is there once.
    """
    found: list[Held] = []
    seen: dict[int, Any] = {}  # keeps what it has seen alive, so that no other object gets its id
    copies: dict[Any, Tensor] = {}
    for prefix, module in model.named_modules():
        found.append(HeldClass(prefix or type(module).__name__, module))
        waiting: deque[tuple[str, Any]] = deque([(prefix, vars(module))])
        while waiting:
            name, value = waiting.popleft()
            if type(value) in _ATOMS or id(value) in seen:
                continue
            seen[id(value)] = value
            if isinstance(value, Tensor):
                held = HeldTensor(name, value, module, copies)
                if held.grad is not None and id(held.grad) not in seen:  # first: only in its own form can it be set
                    seen[id(held.grad)] = held.grad
                    found.append(HeldTensor(f"{name}.grad", held.grad, module, copies))
                found.append(held)
                waiting += [(name, vars(value)), *((f"{name}.{key}", hooks) for key, hooks in held.hooks.items())]
            elif isinstance(value, torch.Generator):
                found.append(HeldGenerator(name, value, module))
            elif isinstance(value, _CONTAINERS):
                found.append(HeldContainer(name or type(module).__name__, value, module))
                waiting += _inside(name, value, value is vars(module))
            elif isinstance(value, tuple):
                waiting += _inside(name, value, False)
    return found


def _inside(name: str, container: Any, own: bool) -> Iterator[tuple[str, Any]]:
    """What a container holds, with names; the attributes of a module without the dicts that it keeps them in."""
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
