"""Alignment of trained networks of one architecture: corresponding filters in the same place."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headstart import rng
from headstart.errors import HeadstartError, ModelError
from headstart.model import guard, inputs, weights
from headstart.model.inputs import Batch, GetInputs
from headstart.model.transaction import Transaction
from headstart.model.weights import weight_layers
from headstart.results.display import Displayable, Table
from headstart.symmetries.channel_flow import trace_channels
from headstart.symmetries.matching import Matcher, Weights, units
from headstart.symmetries.permutation import PermutationGroups, order, permute
from headstart.symmetries.same_function import change, outputs

_ROUNDING = 1e-4  # of the outputs' size
_ROUNDS = 10  # of a mean that moves


@dataclass
class Alignment(Displayable):
    """Aligned copies of networks, and how they were aligned.

    Attributes:
        models: Copies, each with the function of its source.
        similarity: For each, the mean cosine similarity of its filters to the reference's, before and after.
        fixed: By layer name, why its outputs were left in their order.
        wiring: Which channels may trade places.
        tables: For each model, where the labels of the wiring went.
        title: What was done.
    """

    models: list[nn.Module]
    similarity: list[tuple[float, float]]
    fixed: dict[str, str]
    wiring: PermutationGroups = field(repr=False)
    tables: list[Tensor] = field(repr=False)
    title: str = "headstart: align"

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.models)

    def permutation(self, model: int, layer: str) -> Tensor:
        """Which output channel of the source each output channel of the aligned layer was."""
        return order(self.wiring.layers[layer].outputs, self.tables[model])

    def sentences(self) -> list[str]:
        """What the alignment did."""
        channels = sum(len(group) for group in self.wiring.groups)
        text = [f"{len(self.wiring.groups)} groups of {channels} channels may trade places."]
        text += [f"'{name}' keeps the order of its outputs: {reason}." for name, reason in self.fixed.items()]
        return text

    def to_tables(self) -> list[Table]:
        """A row for each model."""
        rows = [
            [str(i), f"{a:.3f} → {b:.3f}", str(int((t != self.wiring.stay()).sum()))]
            for i, ((a, b), t) in enumerate(zip(self.similarity, self.tables, strict=True))
        ]
        return [Table(("model", "similarity", "channels moved"), rows)]


def align(
    models: Sequence[nn.Module],
    data: Any,
    *,
    matching: str = "hungarian",
    reference: str = "first",
    consumers: bool = True,
    samples: int | None = None,
    get_inputs: GetInputs | None = None,
) -> Alignment:
    """Bring the channels of trained networks of one architecture to an order in which their filters correspond.

    The idea: a network computes the same with the filters of a layer in any other order, if what takes their
    outputs follows. So two trained networks may have learnt the same filters in different places. Channels that are
    added to each other (shortcuts) move together. Layers whose channels cannot move keep their order and are named.

    Args:
        models: Two or more, of equal layers. They are left as they are.
        data: As for :func:`headstart.initialize`: shows how channels travel, and that functions stay.
        matching: ``"hungarian"``: the assignment with the largest sum of cosine similarities, group by group
            until nothing changes; ``"greedy"``: the published grouping in index order, by the distance of spectra.
        reference: ``"first"``: the first model keeps its order and the others follow it; ``"mean"``: all follow
            their mean, again and again until nothing moves.
        consumers: Whether the weights that take a channel count too, not only the filters that make it.
        samples: How many samples to use.
        get_inputs: For data of any other form.

    Returns:
        The aligned copies (iterate over it) and what was done.

    Raises:
        HeadstartError: The models differ in their layers, cannot be run or copied, or an aligned copy computes
            something else than its source.

    Cost: some ten forward passes of two samples, each operation run a few times more, two passes of up to 16 for each
    model; and assignments: seconds for ResNet-18, a minute for ResNet-50.

    Example:
        >>> import torch, headstart as hs
        >>> a = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> b = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> with torch.no_grad():
        ...     for p, q, axis in zip(a.parameters(), b.parameters(), (0, 0, 1, 0)):
        ...         _ = q.copy_(p.roll(1, axis))
        >>> _, found = hs.align([a, b], torch.randn(8, 4))
        >>> torch.equal(found[0].weight, a[0].weight)
        True
    """
    if matching not in ("hungarian", "greedy") or reference not in ("first", "mean"):
        raise HeadstartError(
            f"matching={matching!r}, reference={reference!r} is not known.",
            remedy="matching is 'hungarian' or 'greedy', reference is 'first' or 'mean'.",
        )
    if matching == "greedy" and (reference == "mean" or not consumers):
        raise HeadstartError("The greedy matching has no options.", remedy="Leave out reference= and consumers=.")
    found = [guard.unwrap(model) for model in models]
    _check(found)
    with rng.untouched(0), torch.inference_mode(False), torch.no_grad():
        batch = inputs.load(data, found[0], seed=0, samples=samples, get_inputs=get_inputs)
        wiring = trace_channels(found[0], batch)
        matcher = Matcher(wiring, {la.name: la for la in weight_layers(found[0])}, consumers)
        sources = [units(canonical(model)) for model in found]
        tables, reference_weights = tables_of(matcher, sources, matching, reference)
        copies = [_aligned(m, batch, wiring, t, i) for i, (m, t) in enumerate(zip(found, tables, strict=True))]
        similarity = [
            (
                matcher.similarity(reference_weights, source),
                matcher.similarity(reference_weights, matcher.permuted(source, table)),
            )
            for source, table in zip(sources, tables, strict=True)
        ]
    return Alignment(copies, similarity, dict(wiring.fixed), wiring, tables)


def tables_of(
    matcher: Matcher, sources: Sequence[Weights], matching: str, reference: str
) -> tuple[list[Tensor], Weights]:
    """Find where the labels of each network go.

    Args:
        matcher: The matcher for the architecture.
        sources: Filters at length 1.
        matching: As for :func:`align`.
        reference: Likewise.

    Returns:
        A table for each, and the filters that they were compared with.
    """
    if matching == "greedy":
        return matcher.greedy(sources), sources[0]
    stay = matcher.wiring.stay()
    tables = [stay, *(matcher.hungarian(sources[0], source) for source in sources[1:])]
    target: Weights = sources[0]
    for _ in range(_ROUNDS if reference == "mean" else 0):
        placed = [matcher.permuted(source, table) for source, table in zip(sources, tables, strict=True)]
        target = units({name: torch.stack([p[name] for p in placed]).mean(0) for name in matcher.layers})
        again = [matcher.hungarian(target, source, table) for source, table in zip(sources, tables, strict=True)]
        if all(torch.equal(a, b) for a, b in zip(tables, again, strict=True)):
            break
        tables = again
    return tables, target


def canonical(model: nn.Module) -> dict[str, Tensor]:
    """The effective weights of all layers, canonical, by name."""
    return {layer.name: weights.read(layer) for layer in weight_layers(model)}


def _check(models: Sequence[nn.Module]) -> None:
    if len(models) < 2:
        raise HeadstartError(f"{len(models)} models cannot be aligned with each other.", remedy="Pass two or more.")
    for model in models:
        guard.check(model)
        if guard.is_lazy(model):
            raise ModelError("A model has lazy modules without shapes.", remedy="Run one batch through it first.")
    shapes = [{n: tuple(t.shape) for n, t in [*m.named_parameters(), *m.named_buffers()]} for m in models]
    for number, other in enumerate(shapes[1:], start=1):
        for name in sorted({*shapes[0], *other}):
            if shapes[0].get(name) != other.get(name):
                raise ModelError(
                    f"Model {number} differs from model 0: '{name}' has shape {other.get(name)} there and"
                    f" {shapes[0].get(name)} here.",
                    remedy="Align networks of one architecture, with heads of one size.",
                )


def _aligned(model: nn.Module, batch: Batch, wiring: PermutationGroups, table: Tensor, number: int) -> nn.Module:
    """A copy with channels in other places, seen to compute the same."""
    twin = copy.deepcopy(model)
    with Transaction(twin):
        before = outputs(twin, batch)
    permute(twin, wiring, table)
    with Transaction(twin):
        after = outputs(twin, batch)
    if difference := change(before, after, _ROUNDING):
        raise ModelError(
            f"Model {number} computes something else once its channels are aligned: its outputs differ by"
            f" {difference:.3g} of their size.",
            remedy="Its forward treats channels differently by their place; it cannot be aligned.",
        )
    return twin
