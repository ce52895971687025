"""The operations of a forward pass as a graph, with the parameters that each one takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from headstart.model.forward import run
from headstart.model.inputs import Batch

# Operations that hand values on as they are, wherever they put them.
MOVES = (
    *("view", "reshape", "permute", "transpose", "t", "slice", "select", "expand", "clone", "contiguous", "cat"),
    *("split", "split_with_sizes", "unbind", "squeeze", "unsqueeze", "alias", "detach", "narrow", "stack", "copy"),
    *("to_copy", "pixel_shuffle", "pixel_unshuffle", "roll", "chunk", "unsafe_view", "reshape_alias", "lift_fresh"),
    *("native_dropout", "dropout", "unsafe_split", "as_strided", "constant_pad_nd", "index_select", "flip"),
)


@dataclass
class Node:
    """One operation on activations.

    Attributes:
        index: Its position in the order of execution.
        name: The name of the operation, without overload and underscores around it: ``add``, ``convolution``.
        inputs: Indices of the operations whose outputs it takes, in the order of its arguments.
        parameters: Names of the parameters that it takes, directly or after computations on them, in that order.
        shape: The shape of its output, the first one of several.
        call: The function, its arguments and keyword arguments, with activations as :class:`Ref`.
        outputs: What it returned.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    parameters: tuple[str, ...]
    shape: tuple[int, ...]
    call: tuple[Any, tuple[Any, ...], dict[str, Any]] = field(repr=False)
    outputs: tuple[Tensor, ...] = field(repr=False, default=())

    @property
    def moves(self) -> bool:
        """Whether it only passes values on."""
        return self.name in MOVES


@dataclass(frozen=True)
class Ref:
    """The output of another operation."""

    node: int
    output: int = 0


@dataclass
class Graph:
    """The operations of a pass.

    Attributes:
        nodes: In the order of execution.
        users: For each operation, the operations that take its output.
    """

    nodes: list[Node]
    users: list[list[int]]

    def above(self, index: int) -> set[int]:
        """All operations that a node depends on, and itself."""
        return self._reach([index], lambda i: self.nodes[i].inputs)

    def below(self, index: int) -> set[int]:
        """All operations that depend on a node, and itself."""
        return self._reach([index], lambda i: self.users[i])

    @staticmethod
    def _reach(start: Iterable[int], following: Callable[[int], Iterable[int]]) -> set[int]:
        found, left = set(start), list(start)
        while left:
            for i in following(left.pop()):
                if i not in found:
                    found.add(i)
                    left.append(i)
        return found

    def replay(self, target: Ref, given: Mapping[int, Tensor]) -> Tensor:
        """Compute an output again with other values for some operations; only what depends on them is recomputed.

        Args:
            target: The operation whose output is computed.
            given: New first outputs by operation.
        """
        changed: set[int] = set()
        for index in given:
            changed |= self.below(index)
        values: dict[int, tuple[Any, ...]] = {index: (value,) for index, value in given.items()}
        for index in sorted((self.above(target.node) & changed) - given.keys()):
            function, args, kwargs = self.nodes[index].call

            def value(item: Any) -> Any:
                if not isinstance(item, Ref):
                    return item
                if item.node in values:
                    return values[item.node][item.output]
                return self.nodes[item.node].outputs[item.output].clone()  # some operations write into it

            args, kwargs = tree_map(value, (args, kwargs), is_leaf=lambda item: isinstance(item, Ref))
            returned = function(*args, **kwargs)
            values[index] = tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)
        found = values[target.node][target.output]
        assert isinstance(found, Tensor)
        return found


class _Recorder(TorchDispatchMode):
    """Records every operation that depends on the batch."""

    def __init__(self, model: nn.Module, inputs: Collection[Tensor]) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self._refs: dict[int, Ref] = {}
        self._kept: list[Any] = []  # ids stay theirs as long as the tensors live
        self._constants: dict[int, tuple[str, ...]] = {id(p): (n,) for n, p in model.named_parameters()}
        for value in inputs:
            self._add("input", (), (), (None, (), {}), (value,))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Before it runs: what it writes into is another value afterwards.
        described = tree_map(lambda v: self._refs.get(id(v), v) if isinstance(v, Tensor) else v, (args, kwargs))
        refs, parameters = self._found(args, kwargs)
        returned = func(*args, **kwargs)
        outputs = tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)
        tensors = tuple(t for t in outputs if isinstance(t, Tensor))
        if len(tensors) != len(outputs):
            outputs = tensors
        if refs and tensors:
            name = func.overloadpacket.__name__.strip("_").removeprefix("unsafe_")
            self._add(name, refs, parameters, (func, *described), outputs)
        elif parameters:
            for t in tensors:
                self._constants[id(t)] = parameters
                self._kept.append(t)
        return returned

    def _found(self, args: Any, kwargs: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
        refs: dict[int, None] = {}
        parameters: dict[str, None] = {}

        def look(value: Any) -> Any:
            if isinstance(value, Tensor):
                if (ref := self._refs.get(id(value))) is not None:
                    refs.setdefault(ref.node)
                for name in self._constants.get(id(value), ()):
                    parameters.setdefault(name)
            return value

        tree_map(look, (args, kwargs))
        return tuple(refs), tuple(parameters)

    def _add(
        self,
        name: str,
        refs: tuple[int, ...],
        parameters: tuple[str, ...],
        call: tuple[Any, tuple[Any, ...], dict[str, Any]],
        outputs: tuple[Tensor, ...],
    ) -> None:
        index = len(self.nodes)
        self.nodes.append(Node(index, name, refs, parameters, tuple(outputs[0].shape), call, outputs))
        self._kept.append(outputs)
        for place, tensor in enumerate(outputs):
            self._refs[id(tensor)] = Ref(index, place)


@torch.no_grad()
def record(model: nn.Module, batch: Batch, samples: int = 2) -> Graph:
    """Run a few samples and record the operations.

    Args:
        model: In evaluation mode, inside a transaction.
        batch: The first samples of it are run.
        samples: The number of samples.

    Raises:
        ModelError: The model's forward failed.
    """
    small = batch.head(samples) if batch.size > samples else batch.head(batch.size)
    recorder = _Recorder(model, small.tensors)

    def forward(*args: Any, **kwargs: Any) -> Any:
        with recorder:
            return model(*args, **kwargs)

    run(forward, small)
    users: list[list[int]] = [[] for _ in recorder.nodes]
    for node in recorder.nodes:
        for source in node.inputs:
            users[source].append(node.index)
    return Graph(recorder.nodes, users)
