"""Align trained networks of one architecture: put corresponding filters in the same place."""

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
        models: The aligned copies; each has the function of its source.
        similarity: For each copy, the mean cosine similarity of its filters to the reference's, before and after.
        fixed: Layer name -> why its outputs kept their order.
        wiring: Which channels may be permuted.
        tables: For each model, the new place of each label of the wiring.
        title: The title.
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
        text = [f"{len(self.wiring.groups)} groups of {channels} channels may be permuted."]
        text += [f"'{name}' keeps the order of its outputs: {reason}." for name, reason in self.fixed.items()]
        return text

    def to_tables(self) -> list[Table]:
        """One table with a row per model."""
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
    """Permute the channels of trained networks of one architecture so that their filters correspond.

    The idea: the filters of a layer can be put in any order without changing the network's function, if the layers
    behind follow. So two trained networks may have learned the same filters in different places. Channels that are
    added to each other (shortcuts) are permuted together. Layers whose channels cannot move keep their order and are
    named.

    Args:
        models: Two or more models with the same layers. They are not changed.
        data: As for :func:`headstart.initialize`. They show how channels are connected, and that functions are kept.
        matching: ``"hungarian"``: the assignment with the largest sum of cosine similarities, group by group
            until nothing changes. ``"greedy"``: the published grouping in index order, by the distance of spectra.
        reference: ``"first"``: the first model keeps its order and the others follow it. ``"mean"``: all follow
            their mean, repeated until nothing changes.
        consumers: Whether to compare also the weights that take a channel, not only the filters that make it.
        samples: How many samples to use.
        get_inputs: Takes the model's inputs out of data of any other form.

    Returns:
        The aligned copies (iterate over it), and how they were aligned.

    Raises:
        HeadstartError: The models differ in their layers, cannot be run or copied, or an aligned copy computes
            another function than its source.

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
    """Find the new places of the labels of each network.

    Args:
        matcher: The matcher for the architecture.
        sources: Filters at length 1.
        matching: As for :func:`align`.
        reference: As for :func:`align`.

    Returns:
        A table for each network, and the reference filters.
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
    """A copy with permuted channels, checked to compute the same."""
    twin = copy.deepcopy(model)
    with Transaction(twin):
        before = outputs(twin, batch)
    permute(twin, wiring, table)
    with Transaction(twin):
        after = outputs(twin, batch)
    if difference := change(before, after, _ROUNDING):
        raise ModelError(
            f"Model {number} computes another function with its channels aligned: its outputs differ by"
            f" {difference:.3g} of their size.",
            remedy="Its forward depends on the order of channels, so it cannot be aligned.",
        )
    return twin
