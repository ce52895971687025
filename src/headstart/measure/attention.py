"""Find attention in a forward pass: which layers make queries, keys, values and outputs, head by head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from headstart.measure.graph import Graph, Node, Ref, record
from headstart.model.inputs import Batch
from headstart.model.layer import Layer
from headstart.model.parts import parts_of
from headstart.model.weights import weight_layers


@dataclass(frozen=True)
class Rows:
    """The outputs of a layer that one head takes.

    Attributes:
        layer: Its name.
        rows: Which of its outputs each head takes, one tuple per head.
    """

    layer: str
    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Attention:
    """One attention.

    Attributes:
        query, key, value: The layers that make them, and which outputs each head takes. There are fewer heads of keys
            and values where groups of queries share them.
        output: The layer that takes the concatenated results of the heads; "" if there is none.
    """

    query: Rows
    key: Rows
    value: Rows
    output: str = ""

    @property
    def heads(self) -> int:
        """The number of query heads."""
        return len(self.query.rows)


@dataclass(frozen=True)
class Found:
    """The attentions that a pass showed.

    Attributes:
        attentions: Those that are understood, in the order of execution.
        left: One sentence for each attention that is not understood.
    """

    attentions: tuple[Attention, ...]
    left: tuple[str, ...] = ()


def find_attention(model: nn.Module, batch: Batch) -> Found:
    """Find the attentions of a model by running two samples.

    An attention is torch's own operation, or a softmax between two products of activations. Its queries are followed
    back to a weight layer, and gradients show which outputs belong to which head. So rotations,
    scalings and norms on the way do not matter, nor does the layout of heads.

    Args:
        model: In evaluation mode, inside a transaction.
        batch: The model's inputs.

    Raises:
        ModelError: The model's forward failed.
    """
    graph = record(model, batch)
    makers = _makers(graph, model)
    attentions, left = [], []
    for node in graph.nodes:
        taken = _taken(graph, node)
        if taken is None:
            continue
        try:
            attentions.append(_understood(graph, makers, *taken))
        except _UnclearError as error:
            left.append(str(error))
    return Found(tuple(attentions), tuple(left))


class _UnclearError(Exception):
    """Why an attention is not understood."""


def _makers(graph: Graph, model: nn.Module) -> Mapping[int, tuple[Layer, ...]]:
    """Operation -> the layers whose weights it uses."""
    names = {id(p): n for n, p in model.named_parameters()}
    owners: dict[str, list[Layer]] = {}
    parts = [part for part in parts_of(model) if part.sees_input]
    plain = [layer for layer in weight_layers(model) if layer.name not in {part.name for part in parts}]
    for layer in [*parts, *plain]:
        for p in layer.weight_parameters():
            owners.setdefault(names.get(id(p), ""), []).append(layer)
    return {
        node.index: tuple(owners[found])
        for node in graph.nodes
        if node.name not in ("add", "mul") and (found := next((p for p in node.parameters if p in owners), ""))
    }


def _taken(graph: Graph, node: Node) -> tuple[Ref, Ref, Ref, int] | None:
    """Queries, keys, values and the operation that mixes the values; None if the node is not an attention."""
    _, args, kwargs = node.call
    if "scaled_dot_product" in node.name:
        refs = [a for a in (*args, *kwargs.values()) if isinstance(a, Ref)]
        return (refs[0], refs[1], refs[2], node.index) if len(refs) > 2 else None
    if not node.name.endswith("softmax") or node.name.startswith("log"):
        return None
    scores = _product_above(graph, node.inputs[0])
    mixed = _product_below(graph, node.index)
    if scores is None or mixed is None:
        return None
    product, after = graph.nodes[scores], graph.nodes[mixed]
    sides = [a for a in product.call[1] if isinstance(a, Ref)][-2:]
    values = [a for a in after.call[1] if isinstance(a, Ref) and node.index not in graph.above(a.node)]
    return (sides[0], sides[1], values[0], mixed) if len(sides) == 2 and values else None


_PRODUCTS = ("bmm", "matmul", "baddbmm")


def _product_above(graph: Graph, index: int) -> int | None:
    """The product of two activations from which the scores are made, through scaling, masking and reshaping."""
    for _ in range(20):
        node = graph.nodes[index]
        if node.name in _PRODUCTS and len(node.inputs) >= 2 and not node.parameters:
            return index
        if not node.inputs:
            return None
        index = next((i for i in node.inputs if len(graph.nodes[i].shape) >= 3), node.inputs[0])
    return None


def _product_below(graph: Graph, index: int) -> int | None:
    """The product of attention weights and values."""
    for _ in range(20):
        users = graph.users[index]
        found = next((u for u in users if graph.nodes[u].name in _PRODUCTS), None)
        if found is not None:
            return found
        moved = [u for u in users if graph.nodes[u].moves or graph.nodes[u].name == "mul"]
        if not moved:
            return None
        index = moved[0]
    return None


def _understood(
    graph: Graph, makers: Mapping[int, tuple[Layer, ...]], query: Ref, key: Ref, value: Ref, mixed: int
) -> Attention:
    asked, answered = _rows(graph, makers, query, "queries"), _rows(graph, makers, key, "keys")
    return Attention(asked, answered, _rows(graph, makers, value, "values"), _output(graph, makers, mixed))


def _rows(graph: Graph, makers: Mapping[int, tuple[Layer, ...]], ref: Ref, what: str) -> Rows:
    """The layer that makes a tensor of heads, and which of its outputs each head takes."""
    index = _maker(graph, makers, ref.node)
    if index is None:
        raise _UnclearError(f"no single layer makes the {what} of an attention")
    made, layers = graph.nodes[index].outputs[0], makers[index]
    with torch.enable_grad():
        leaf = made.detach().clone().requires_grad_()
        heads = graph.replay(ref, {index: leaf}) if index != ref.node else leaf
        if heads.dim() == 4:
            pieces = heads.unbind(1)
        elif heads.dim() == 3 and len(made) and heads.shape[0] % max(1, _samples(graph)) == 0:
            pieces = heads.unflatten(0, (_samples(graph), -1)).unbind(1)
        else:
            raise _UnclearError(
                f"the {what} of an attention have {heads.dim()} axes, so the heads cannot be told apart"
            )
        found = []
        for piece in pieces:
            weights = torch.rand(piece.shape, generator=torch.Generator().manual_seed(0)).to(piece)
            (gradient,) = torch.autograd.grad((piece * weights).sum(), leaf, retain_graph=True)
            used = gradient.flatten(0, -2).abs().amax(0) > 0
            found.append(tuple(used.nonzero().flatten().tolist()))
    sizes = {len(rows) for rows in found}
    if len(sizes) != 1 or 0 in sizes:
        raise _UnclearError(f"the {what} of an attention mix outputs of '{layers[0].name}' across heads")
    # Groups of queries may share keys: what is repeated counts once.
    found = list(dict.fromkeys(found))
    if len({r for rows in found for r in rows}) != sum(map(len, found)):
        raise _UnclearError(f"some outputs of '{layers[0].name}' belong to several heads")
    return _within(layers, found)


def _within(layers: tuple[Layer, ...], rows: list[tuple[int, ...]]) -> Rows:
    """Rows of the one projection that makes them, where several projections share a parameter."""
    begin = 0
    together = sum(layer.out_channels for layer in layers)
    if len(layers) == 1 or max(map(max, rows)) >= together:
        return Rows(layers[0].name, tuple(rows))
    for layer in layers:
        own = range(begin, begin + layer.out_channels)
        if all(r in own for row in rows for r in row):
            return Rows(layer.name, tuple(tuple(r - begin for r in row) for row in rows))
        begin += layer.out_channels
    raise _UnclearError(f"heads take outputs of other layers than '{layers[0].name}' too")


def _samples(graph: Graph) -> int:
    return next((n.shape[0] for n in graph.nodes if n.name == "input" and n.shape), 1)


def _maker(graph: Graph, makers: Mapping[int, tuple[Layer, ...]], index: int) -> int | None:
    """The last operation with a layer's weight before a node, if one lies on every path to it."""
    candidates = [i for i in sorted(graph.above(index), reverse=True) if i in makers]
    return candidates[0] if candidates else None


def _output(graph: Graph, makers: Mapping[int, tuple[Layer, ...]], index: int) -> str:
    """The layer that takes the result unchanged, or only reshaped."""
    for _ in range(12):
        users = graph.users[index]
        if len(users) != 1:
            return ""
        index = users[0]
        if index in makers:
            return makers[index][0].name
        if not graph.nodes[index].moves:
            return ""
    return ""
