"""Permutations of channels: groups of channels, and every tensor that must follow."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from headstart.model import weights
from headstart.model.weights import Layer, weight_layers
from headstart.symmetries.operations import PINNED


@dataclass
class ChannelLabels:
    """Labels of a weight layer's channels.

    Attributes:
        inputs: The label of each input channel, ``(in_channels,)``; ``ANY`` where it is always zero.
        outputs: The label of each output channel, ``(out_channels,)``.
    """

    inputs: Tensor
    outputs: Tensor


@dataclass
class PermutationGroups:
    """The channels of a network and how they may be permuted.

    Attributes:
        layers: Layer name, in execution order -> the label of every input and output channel.
        other_tensors: Name of a parameter or buffer outside the weight layers -> the label of every value.
        groups: Labels that may be permuted with each other, in execution order.
        fixed: Layer name -> why its outputs stay in place.
    """

    layers: dict[str, ChannelLabels] = field(default_factory=dict)
    other_tensors: dict[str, Tensor] = field(default_factory=dict)
    groups: list[Tensor] = field(default_factory=list)
    fixed: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The length of a table of labels."""
        used = [t for use in self.layers.values() for t in (use.inputs, use.outputs)]
        labels = [*used, *self.other_tensors.values(), *self.groups]
        return max((int(t.max()) for t in labels if t.numel()), default=0) + 1

    def stay(self) -> Tensor:
        """The table that leaves every label in its place."""
        return torch.arange(self.size)

    def shuffled(self, generator: torch.Generator) -> Tensor:
        """A table that moves every label within its group, in a random cycle."""
        table = self.stay()
        for group in self.groups:
            found = group[torch.randperm(len(group), generator=generator)]
            table[found] = found.roll(1)
        return table


def order(labels: Tensor, table: Tensor) -> Tensor:
    """The source of each place's content, if the content of label ``l`` goes to the places of ``table[l]``.

    Example:
        >>> order(torch.tensor([1, 2, 3]), torch.tensor([0, 3, 1, 2])).tolist()
        [1, 2, 0]
    """
    moved = torch.where(labels > PINNED, table[labels.clamp_min(0)], labels)
    index = torch.empty_like(labels)
    return index.scatter_(-1, labels.argsort(dim=-1, stable=True), moved.argsort(dim=-1, stable=True))


def permuted(layer: Layer, use: ChannelLabels, weight: Tensor, table: Tensor) -> Tensor:
    """A canonical weight with permuted channels.

    Args:
        layer: The layer, for its geometry.
        use: The labels of its channels.
        weight: ``(out, in/groups, *kernel)``.
        table: The new place of each label.
    """
    into = order(use.inputs.view(layer.groups, -1), table).to(weight.device)
    by_group = weight[order(use.outputs, table).to(weight.device)].unflatten(0, (layer.groups, -1))
    index = into.view(layer.groups, 1, -1, *[1] * len(layer.kernel)).expand_as(by_group)
    return by_group.gather(2, index).flatten(0, 1)


@torch.no_grad()
def permute(model: nn.Module, wiring: PermutationGroups, table: Tensor) -> None:
    """Permute the channels of a model. With a table that stays within the groups, its function is kept.

    Args:
        model: A model with the wiring's architecture.
        wiring: From :func:`headstart.symmetries.channel_flow.trace_channels`.
        table: The new place of each label.

    Raises:
        WriteError: A weight's parametrization cannot represent the result.
    """
    for layer in weight_layers(model):
        use = wiring.layers.get(layer.name)
        if use is None:
            continue
        into, out = order(use.inputs, table), order(use.outputs, table)
        if torch.equal(into, torch.arange(len(into))) and torch.equal(out, torch.arange(len(out))):
            continue
        weights.write(layer, permuted(layer, use, weights.read(layer), table))
        bias = weights.read_bias(layer)
        if bias is not None:
            weights.write_bias(layer, bias[out.to(bias.device)])
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, labels in wiring.other_tensors.items():
        values = own[name].flatten()[order(labels, table).to(own[name].device)]
        own[name].copy_(values.view_as(own[name]))
