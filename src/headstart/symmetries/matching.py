"""Which filter of one trained network corresponds to which filter of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from headstart.model.weights import Layer
from headstart.symmetries.permutation import PermutationGroups, permuted

Weights = Mapping[str, Tensor]  # by layer name, canonical
_ROUNDS = 50
_GAIN = 1e-5  # of the similarity: less is rounding


def units(weights: Weights) -> dict[str, Tensor]:
    """Every filter scaled to length 1, in float32 on the CPU; filters of zeros stay zero."""
    found = {}
    for name, weight in weights.items():
        flat = weight.detach().cpu().float().flatten(1)
        found[name] = (flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-30)).view(weight.shape)
    return found


class Matcher:
    """Finds permutations of networks of one architecture so that their filters correspond.

    Args:
        wiring: Which channels may be permuted.
        layers: The layers by name, for their geometry.
        consumers: Whether to compare also the weights that take a channel. Only then is every step
            guaranteed to raise the sum of the cosine similarities of all filters.
    """

    def __init__(self, wiring: PermutationGroups, layers: Mapping[str, Layer], consumers: bool = True) -> None:
        self.wiring = wiring
        self.layers = {name: layers[name] for name in wiring.layers}
        self.consumers = consumers
        self._places: dict[tuple[int, str, str], Tensor] = {}  # of a group in an axis, in the order of its labels
        for number, group in enumerate(wiring.groups):
            for name, use in wiring.layers.items():
                layer = self.layers[name]
                one_to_one = layer.groups == layer.in_channels
                for axis, labels in (("out", use.outputs), ("in", use.inputs)):
                    places = torch.isin(labels, group).nonzero().flatten()
                    if len(places) and not (axis == "in" and one_to_one):
                        self._places[number, name, axis] = places[labels[places].argsort(dim=0, stable=True)]

    def similarity(self, reference: Weights, weights: Weights) -> float:
        """The mean cosine similarity of filters in the same place, over all layers."""
        found = [(reference[name] * weights[name]).flatten(1).sum(1) for name in self.layers]
        return float(torch.cat(found).mean()) if found else 1.0

    def permuted(self, weights: Weights, table: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The weights with permuted channels."""
        names = list(self.layers) if names is None else names
        return {n: permuted(self.layers[n], self.wiring.layers[n], weights[n], table) for n in names}

    def hungarian(self, reference: Weights, weights: Weights, start: Tensor | None = None) -> Tensor:
        """Find the permutation with the most similar filters: one assignment after the other until nothing changes.

        Without ``start``, groups are first assigned in the order in which data reaches them, by the filters whose
        inputs are already assigned. So a permuted copy of a network is restored in one sweep.

        Args:
            reference: Filters at length 1.
            weights: The same for the network to permute.
            start: The initial places of its labels.

        Returns:
            The new places of its labels.
        """
        total = self.wiring.stay() if start is None else start
        current = self.permuted(weights, total)
        every = set(range(len(self.wiring.groups)))
        sweeps = [self._producers(first=True)] if start is None else []
        first, open_ = len(sweeps), every  # groups whose surroundings moved since they were assigned
        for axes in [*sweeps, *[self._axes()] * _ROUNDS]:
            for number in sorted(open_):
                open_ = open_ - {number}
                step = self._assignment(reference, current, number, axes[number])
                if step is None:
                    continue
                table = self.wiring.stay()
                table[self.wiring.groups[number][step]] = self.wiring.groups[number]
                total = table[total]
                names = [n for n in current if self._has(number, n)]
                current |= self.permuted(current, table, names)
                open_ = open_ | {g for g in every - {number} if any(self._has(g, n) for n in names)}
            if first:
                first, open_ = 0, every
            if not open_:
                break
        return total

    def greedy(self, models: Sequence[Weights]) -> list[Tensor]:
        """Group filters as published: in index order, each group takes the nearest filter that is left.

        Distances are Euclidean ones between real parts of the Fourier transform of the flattened filters, summed over
        what the group holds so far.

        Args:
            models: Filters at length 1 of each model. The first model keeps its order.

        Returns:
            For each model, the new places of its labels.
        """
        totals = [self.wiring.stay() for _ in models]
        current = [dict(weights) for weights in models]
        for number, (group, axes) in enumerate(zip(self.wiring.groups, self._producers(first=True), strict=True)):
            seen = [self._spectra(current[0], number, axes)]
            for model in range(1, len(models)):
                mine = self._spectra(current[model], number, axes)
                far = torch.stack([torch.cdist(a, b) for member in seen for a, b in zip(member, mine, strict=True)])
                step = _nearest_left(far.sum(0))
                seen.append([part[step] for part in mine])
                table = self.wiring.stay()
                table[group[step]] = group
                totals[model] = table[totals[model]]
                names = [n for n in self.layers if self._has(number, n)]
                current[model] |= self.permuted(current[model], table, names)
        return totals

    def _spectra(self, weights: Weights, number: int, axes: Sequence[tuple[str, str]]) -> list[Tensor]:
        return [torch.fft.fft(self._features(weights, number, *axis)).real for axis in axes]

    def _has(self, number: int, name: str) -> bool:
        return (number, name, "out") in self._places or (number, name, "in") in self._places

    def _axes(self) -> list[list[tuple[str, str]]]:
        """For each group, the axes to compare."""
        if not self.consumers:
            return self._producers(first=False)
        return [[(n, axis) for g, n, axis in self._places if g == number] for number in range(len(self.wiring.groups))]

    def _producers(self, first: bool) -> list[list[tuple[str, str]]]:
        """For each group, the layers that make it and whose inputs are already assigned."""
        settled = torch.zeros(self.wiring.size, dtype=torch.bool)
        settled[0] = True
        found = []
        for number, group in enumerate(self.wiring.groups):
            made = [name for g, name, axis in self._places if g == number and axis == "out"]
            ready = [n for n in made if bool(settled[self._needed(n)].all())]
            found.append([(name, "out") for name in (ready if first and ready else made)])
            settled[group] = True
        return found

    def _needed(self, name: str) -> Tensor:
        """Labels of the inputs that must be assigned before a layer's filters can be compared."""
        layer = self.layers[name]
        if layer.groups == layer.in_channels:  # filters of one channel each
            return torch.zeros(1, dtype=torch.long)
        labels = self.wiring.layers[name].inputs.clamp_min(0).unique()
        free = torch.cat(self.wiring.groups)
        return labels[torch.isin(labels, free)]

    def _features(self, weights: Weights, number: int, name: str, axis: str) -> Tensor:
        """One row per channel of a group: the weights that make or take it, ``(channels, values)``."""
        weight, layer, places = weights[name], self.layers[name], self._places[number, name, axis]
        if axis == "in":
            by_group = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2)  # (groups, in/g, out/g, *kernel)
            weight = by_group.flatten(0, 1)
        return weight[places].reshape(len(self.wiring.groups[number]), -1)

    def _assignment(
        self, reference: Weights, weights: Weights, number: int, axes: Sequence[tuple[str, str]]
    ) -> Tensor | None:
        """Which channel belongs in each place of a group; None if nothing changes."""
        if not axes:
            return None
        alike = torch.zeros(len(self.wiring.groups[number]), len(self.wiring.groups[number]), dtype=torch.float64)
        for axis in axes:
            alike += self._features(reference, number, *axis) @ self._features(weights, number, *axis).T
        rows, columns = linear_sum_assignment(alike.numpy(), maximize=True)
        best = float(alike[rows, columns].sum())
        if best - float(alike.trace()) <= _GAIN * max(abs(best), 1e-30):
            return None
        return torch.from_numpy(columns)


def _nearest_left(far: Tensor) -> Tensor:
    """For each row in turn, the nearest column that is not yet taken."""
    far = far.clone()
    step = []
    for row in far:
        step.append(int(row.argmin()))
        far[:, step[-1]] = torch.inf
    return torch.tensor(step)
