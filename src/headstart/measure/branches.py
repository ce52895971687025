"""Find residual branches from the sums in a forward pass: the layers of each branch, and what ends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from headstart.measure.graph import Graph, Node, record
from headstart.model.inputs import Batch
from headstart.model.norms import is_norm
from headstart.model.parts import parts_of
from headstart.model.weights import weight_layers

_SUMS = {"add"}
_PASSING = {"mul", "div", "add"}  # by or of constants and parameters alone
_HOMOGENEOUS = {
    "relu",
    "leaky_relu",
    "max_pool2d_with_indices",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "mean",
}
_SHIFTS = ("bias", "beta", "shift")


@dataclass(frozen=True)
class Branch:
    """A branch that is added to a skip connection.

    Attributes:
        layers: Names of its weight layers, in the order of execution. The last one ends the branch, if that layer is
            known.
        depth: How many of them are in sequence.
        gain: Name of the parameter that scales the branch after its last layer (a norm's gain, a layer scale), or "".
        norms: Whether it has a norm.
        problem: The nonlinear operation between the end and the sum, in words; or "".
        scales: Whether a positive factor on the end scales the whole branch. A ReLU in between allows that.
    """

    layers: tuple[str, ...]
    depth: int = 1
    gain: str = ""
    norms: bool = False
    problem: str = ""
    scales: bool = True

    @property
    def first(self) -> str:
        """Its first weight layer."""
        return self.layers[0]

    @property
    def last(self) -> str:
        """Its last weight layer."""
        return self.layers[-1]


def find_branches(model: nn.Module, batch: Batch) -> list[Branch]:
    """Find the residual branches of a model by running two samples.

    In a sum of two values, one may be computed from the other (or both from the same value, one of them by at most one
    weight layer and the other by more). Then the longer one is a branch. A sum around others is left out: only the
    innermost branches repeat.

    Args:
        model: In evaluation mode, inside a transaction.
        batch: The model's inputs.

    Returns:
        The branches in the order of their sums.

    Raises:
        ModelError: The model's forward failed.
    """
    return branches_of(record(model, batch), model)


def branches_of(graph: Graph, model: nn.Module) -> list[Branch]:
    """The residual branches in a recorded pass; see :func:`find_branches`."""
    owners = _owners(model)
    layers = {}
    for node in graph.nodes:
        found = next((owners[p] for p in node.parameters if p in owners), None)
        if found is not None and node.name not in _SUMS | {"mul"}:
            layers[node.index] = found
    finder = _Finder(graph, layers, _gains(model))
    spans = [span for node in graph.nodes if node.name in _SUMS for span in finder.spans(node)]
    # Of sums that lie within one another the inner ones count.
    inner = [s for s in spans if not any(o is not s and o.inside < s.inside for o in spans)]
    return [finder.describe(span) for span in inner]


@dataclass(frozen=True)
class _Span:
    end: int
    inside: frozenset[int]


@dataclass(frozen=True)
class _Finder:
    graph: Graph
    layers: Mapping[int, tuple[str, ...]]
    gains: Mapping[str, bool]

    def spans(self, node: Node) -> list[_Span]:
        """The branches that end in a sum."""
        users = self.graph.users[node.index]
        if len(users) == 1 and _adds(self.graph.nodes[users[0]], self.graph):
            return []  # a part of that sum
        terms = self._terms(node)
        if len(terms) < 2:
            return []
        above = {t: self.graph.above(t) for t in terms}
        skip = next((t for t in terms if all(t in above[o] for o in terms)), None)
        if skip is not None:
            spans = [_Span(t, frozenset(above[t] & self.graph.below(skip)) - {skip}) for t in terms if t != skip]
        elif len(terms) == 2:
            spans = self._projected(terms, above)
        else:
            return []
        return [s for s in spans if any(i in self.layers for i in s.inside)]

    def _terms(self, node: Node) -> list[int]:
        if not _adds(node, self.graph):
            return []
        terms: list[int] = []
        for source in node.inputs:
            inner = self.graph.nodes[source]
            single = len(self.graph.users[source]) == 1
            terms += self._terms(inner) if single and _adds(inner, self.graph) else [source]
        return terms

    def _projected(self, terms: Sequence[int], above: Mapping[int, set[int]]) -> list[_Span]:
        """A skip connection with its own layer, as where a residual network changes its width."""
        shared = above[terms[0]] & above[terms[1]]
        if not shared:
            return []
        origin = max(shared)
        below = self.graph.below(origin)
        spans = [_Span(t, frozenset(above[t] & below) - {origin}) for t in terms]
        spans.sort(key=lambda s: self._count(s))
        few, many = (self._count(s) for s in spans)
        return spans[1:] if few <= 1 and many > few else []

    def _count(self, span: _Span) -> int:
        return len({self.layers[i] for i in span.inside if i in self.layers})

    def describe(self, span: _Span) -> Branch:
        """The layers of a branch, and what ends it."""
        names = dict.fromkeys(name for i in sorted(span.inside) for name in self.layers.get(i, ()))
        norms = any("norm" in self.graph.nodes[i].name or self._gain(i, norms=True) for i in span.inside)
        gain, last, problem, scales = self._end(span)
        if last:
            names.pop(last, None)
            names[last] = None
        return Branch(tuple(names), self._depth(span), gain, norms, problem, scales)

    def _depth(self, span: _Span) -> int:
        depth: dict[int, int] = {}
        for i in sorted(span.inside):
            before = max((depth.get(s, 0) for s in self.graph.nodes[i].inputs), default=0)
            depth[i] = before + (i in self.layers)
        return depth[span.end]

    def _gain(self, index: int, *, norms: bool = False) -> str:
        node = self.graph.nodes[index]
        if "norm" not in node.name and node.name != "mul":
            return ""
        return next((p for p in node.parameters if p in self.gains and (self.gains[p] or not norms)), "")

    def _end(self, span: _Span) -> tuple[str, str, str, bool]:
        """Walk back from the sum to the first gain or layer. Return both, and any nonlinear operation on the way."""
        index, problem, scales = span.end, "", True
        gain = ""
        while index in span.inside:
            node = self.graph.nodes[index]
            gain = gain or self._gain(index)
            if index in self.layers:
                return gain, self.layers[index][-1], problem, scales
            linear = node.moves or bool(self._gain(index)) or (node.name in _PASSING and len(node.inputs) == 1)
            if gain and not linear:
                break  # the gain is the end
            if not linear:
                problem = problem or f"'{node.name}' lies between its last layer and the sum"
                scales = scales and node.name in _HOMOGENEOUS
            if len(node.inputs) != 1:
                problem = problem or "several values are joined after its last layer"
                scales = False
                break
            index = node.inputs[0]
        return gain, "", problem or ("" if gain else "its end was not found"), scales


def _adds(node: Node, graph: Graph) -> bool:
    """Whether a node adds several values of one shape, without broadcasting."""
    alike = all(graph.nodes[i].shape == node.shape for i in node.inputs)
    return node.name in _SUMS and len(node.inputs) > 1 and alike and len(node.shape) > 1


def _owners(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Parameter -> the weight layers whose weight it is: queries, keys and values may share one."""
    names = {id(p): n for n, p in model.named_parameters()}
    parts = [part for part in parts_of(model) if part.sees_input]
    known = {part.name for part in parts}
    owners: dict[str, tuple[str, ...]] = {}
    for layer in weight_layers(model):
        if layer.name not in known:
            for p in layer.weight_parameters():
                owners.setdefault(names.get(id(p), ""), (layer.name,))
    for part in parts:
        for p in part.weight_parameters():
            owners[names[id(p)]] = (*owners.get(names[id(p)], ()), part.name)
    return owners


def _gains(model: nn.Module) -> dict[str, bool]:
    """Parameters that may scale channels, and whether a norm has them."""
    of_layers = {id(p) for layer in [*weight_layers(model), *parts_of(model)] for p in layer.module.parameters()}
    found = {}
    modules = dict(model.named_modules())
    for name, p in model.named_parameters():
        owner = modules[name.rpartition(".")[0]]
        in_norm = is_norm(owner) and name.rpartition(".")[2] not in _SHIFTS
        if id(p) not in of_layers and (in_norm or not is_norm(owner)):
            found[name] = in_norm
    return found
