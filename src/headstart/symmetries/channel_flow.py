"""Which channels of a network may be permuted, and which axes of its tensors must follow.

Every value of a traced pass carries labels of the channels that it comes from, as in `scale_flow`. A weight
layer's outputs get new labels; values that are added share labels. To learn what an operation does to channels, it is
run again on inputs with permuted channels. Parameters and buffers outside the weight layers have labels
too, so everything that belongs to a channel (a norm's weight and statistics, a layer scale, a slope) follows it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from headstart.errors import ModelError
from headstart.model import inputs
from headstart.model.forward import first_input, run
from headstart.model.hooks import hooked
from headstart.model.inputs import Batch
from headstart.model.returned import all_tensors
from headstart.model.trace import trace_model
from headstart.model.transaction import Transaction
from headstart.model.weights import Layer, weight_layers
from headstart.symmetries.operations import ANY, PINNED, Operation, close, joined
from headstart.symmetries.permutation import ChannelLabels, PermutationGroups, order, permute
from headstart.symmetries.same_function import change, outputs
from headstart.symmetries.scale_flow import Done, Labels, Tracer

_LARGEST = 1 << 16  # values of a tensor outside of weight layers; more are no vector of channels
_ROUNDING = 1e-4  # of the outputs' size


def trace_channels(model: nn.Module, batch: Batch) -> PermutationGroups:
    """Find the channels of a network that may be permuted. The model is not changed.

    Args:
        model: Any.
        batch: Two samples of it are run; every operation runs several times.

    Raises:
        ModelError: The forward fails, the model cannot be copied, or its channels cannot be followed.
    """
    twin = _twin(model)
    small = batch.head(2)
    args, kwargs = inputs.map_tensors((small.args, small.kwargs), _widened)
    small = Batch(args, kwargs)
    with Transaction(twin) as transaction, torch.no_grad():
        _vary(twin)
        tracer = _Wires(twin)
        fresh = small.head(small.size)  # the forward may write into its input
        with tracer.hooked(twin, trace_model(twin, small).layers), tracer:
            returned = run(twin, fresh)
        wiring = tracer.wiring(returned)
        before = outputs(twin, small)
        permute(twin, wiring, wiring.shuffled(torch.Generator().manual_seed(0)))
        difference = change(before, outputs(twin, small), _ROUNDING)
        del transaction
    if difference:
        raise ModelError(
            f"The channels of {type(model).__name__} cannot be followed: with permuted channels its outputs differ"
            f" by {difference:.3g} of their size.",
            remedy="Some part of its forward depends on the order of channels in a way that the trace did not detect.",
        )
    return wiring


def _twin(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in float32 or better."""
    try:
        twin = copy.deepcopy(model).cpu()
    except RuntimeError as error:
        raise ModelError(
            f"{type(model).__name__} cannot be copied: {error}.",
            remedy="Remove the older, hook-based weight or spectral norm first (torch.nn.utils.parametrizations).",
        ) from error
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in twin.parameters())
    return twin.float() if half else twin


def _widened(value: Tensor) -> Tensor:
    value = value.cpu()
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


@torch.no_grad()
def _vary(model: nn.Module) -> None:
    """Make constant tensors vary: ones and zeros do not reveal their order."""
    generator = torch.Generator().manual_seed(0)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
            tensor.add_(torch.rand(tensor.shape, generator=generator).to(tensor) + 0.5)


class _Wires(Tracer):
    """Follows channels: it tests what operations do to the order of channels, not to scales."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__((), (), channels=True)
        self._channels_of: dict[str, ChannelLabels] = {}
        self._family = torch.zeros(1, dtype=torch.long)  # by label: only members of one family may trade places
        layers = weight_layers(model)
        owners = Counter(id(p) for m in model.modules() for p in m._parameters.values())
        self._shared = {la.name for la in layers if any(owners[id(p)] > 1 for p in la.module.parameters())}
        inside = {id(t) for la in layers for t in [*la.module.parameters(), *la.module.buffers()]}
        self._others: dict[str, Tensor] = {}
        self._constants: set[int] = set()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if id(tensor) not in inside and tensor.is_floating_point() and 1 < tensor.numel() <= _LARGEST:
                self._others[name] = self.new_labels(tensor.numel())
                self._labels[id(tensor)] = (tensor, self._others[name].view(tensor.shape))
                self._constants.add(id(tensor))

    def new_labels(self, channels: int) -> Tensor:
        """Create new labels, as one family."""
        family = self._family.new_full((channels,), int(self._family.max()) + 1)
        self._family = torch.cat([self._family, family])
        return torch.as_tensor(super().new_labels(channels))

    # Operations ----------------------------------------------------------------------------------------------

    def judge(self, op: Operation, number: int, value: Tensor) -> Tensor | None:
        """Find the labels of an operation's output; pin its inputs if it mixes channels."""
        if all(id(leaf) in self._constants for leaf in op.leaves if isinstance(leaf, Tensor)):
            self._constants.add(id(value))
        moved = op.moved(number)
        if moved is not None and moved.shape == value.shape:
            return moved
        if value.numel() == 0:
            return None
        data = {i: labels for i, labels in op.labelled.items() if id(op.leaves[i]) not in self._constants}
        # What is spread over all channels alike need not go with them: try the data alone first.
        for labelled in (data, op.labelled) if 0 < len(data) < len(op.labelled) else (op.labelled,):
            part = Operation(op.func, op.leaves, op.spec, labelled, op.name)
            for candidate, merged in sorted(_candidates(part, number, value), key=self._loss):
                if self._keeps(part, number, value, candidate, merged):
                    found = self.classes.roots(candidate)
                    return torch.where((found == ANY) & (value != 0).cpu(), PINNED, found)
            if self._keeps(part, number, value, None, []):
                return None
        return self.by_role(op, number, value, f"{op.name} mixes channels")

    def _keeps(
        self, op: Operation, number: int, value: Tensor, candidate: Tensor | None, merged: list[list[int]]
    ) -> bool:
        """Tell whether the output is permuted as the candidate says when the inputs are (None: not at all)."""
        classes = self.classes.copy()
        for group in merged:
            classes.merge(group)
        fields = {i: classes.roots(labels) for i, labels in op.labelled.items()}
        wanted = None if candidate is None else classes.roots(candidate)
        family = self._family if wanted is None else _parted(self._family, wanted)
        for i, labels in fields.items():  # what becomes one belongs to no wider family than either did
            family = _parted(family, labels, self._family[op.labelled[i].clamp_min(0)])
        table = self._cycle(family, torch.cat([labels.flatten() for labels in fields.values()]).unique())

        def trade(i: int, leaf: Tensor) -> Tensor:
            return _traded(leaf, fields[i], table) if i in fields else leaf.clone()

        got = op.run(trade)[number]
        if not close(got, value if wanted is None else _traded(value, wanted, table)):
            return False
        self.classes, self._family = classes, family
        return True

    def _loss(self, guess: tuple[Tensor, list[list[int]]]) -> int:
        """How many labels would be merged; it decides between axes of the same size, which are easily confused."""
        classes = self.classes.copy()
        for group in guess[1]:
            classes.merge(group)
        return -len(classes.roots(guess[0]).unique())

    def _cycle(self, family: Tensor, labels: Tensor) -> Tensor:
        """A table that moves every movable label within its family, in a random cycle."""
        labels = labels[labels > PINNED]
        labels = labels[torch.randperm(len(labels), generator=self.draw)]
        labels = labels[family[labels].argsort(dim=0, stable=True)]
        table = torch.arange(len(family))
        if len(labels):
            _, sizes = family[labels].unique_consecutive(return_counts=True)
            table[labels] = torch.cat([part.roll(1) for part in labels.split(sizes.tolist())])
        return table

    # Modules -------------------------------------------------------------------------------------------------

    @contextmanager
    def hooked(self, model: nn.Module, layers: Sequence[Layer]) -> Iterator[None]:
        """Treat weight layers as units; norms are ordinary operations, except for their groups."""
        grouped = [(m, m) for m in model.modules() if isinstance(m, nn.GroupNorm)]
        with self.whole((self._layer(layer), layer.module) for layer in layers), hooked(grouped, self._grouped):
            yield

    def _grouped(self, module: nn.GroupNorm, args: Any, kwargs: Any) -> None:
        """Keep channels within the groups of a group norm."""
        value = first_input(args, kwargs)
        if self.is_live(value) and value.dim() > 1:
            self._part(self._by_channel(self.labels(value), 1), module.num_groups)

    def _by_channel(self, labels: Labels, axis: int) -> Tensor:
        return torch.as_tensor(self.by_channel(labels, axis))

    def _part(self, channels: Tensor, groups: int) -> None:
        """Keep channels within their groups."""
        kinds = torch.arange(groups).repeat_interleave(len(channels) // groups)
        self._family = _parted(self._family, self.classes.roots(channels), kinds)

    def _layer(self, layer: Layer) -> Done:
        def done(value: Tensor, labels: Labels, output: Tensor) -> Labels | None:
            found = self._by_channel(labels, layer.channel_axis(value))
            use = self._channels_of.get(layer.name)
            single = layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1
            if use is None:
                # One filter per channel: it goes with its channel. A constant channel has a filter all the same.
                new = torch.where(found == ANY, PINNED, found) if single else self.new_labels(layer.out_channels)
                use = self._channels_of[layer.name] = ChannelLabels(found, new)
            else:
                family = self._family[found.clamp_min(0)]
                use.inputs = torch.as_tensor(self.alike(use.inputs, found))
                self._family = _parted(self._family, self.classes.roots(found), family)
            if layer.name in self._shared:
                self.pin(torch.cat([use.inputs, use.outputs]), f"'{layer.name}' shares a parameter with another module")
            if not single:
                self._part(use.inputs, layer.groups)
                self._part(use.outputs, layer.groups)
            shape = [1] * output.dim()
            shape[layer.channel_axis(output)] = -1
            return self.classes.roots(use.outputs).view(shape).expand(output.shape)

        return done

    def wiring(self, returned: Any) -> PermutationGroups:
        """Pin what the model returns, and return which labels may be permuted."""
        for leaf in all_tensors(returned):
            if isinstance(leaf, Tensor) and self.is_live(leaf):
                self.pin(self.labels(leaf), "the model returns it")
        roots = self.classes.roots
        found = PermutationGroups(
            {n: ChannelLabels(roots(u.inputs), roots(u.outputs)) for n, u in self._channels_of.items()}
        )
        for name, use in self._channels_of.items():
            if bool((found.layers[name].outputs <= PINNED).all()):
                found.fixed[name] = self._why(int(use.outputs[0]))
        seen: set[int] = set()
        for use in found.layers.values():
            for family, labels in _families(self._family, use.outputs).items():
                if family not in seen and len(labels) > 1:
                    found.groups.append(labels)
                seen.add(family)
        free = torch.cat([torch.empty(0, dtype=torch.long), *found.groups])
        others = {name: roots(labels) for name, labels in self._others.items()}
        found.other_tensors = {name: labels for name, labels in others.items() if bool(torch.isin(labels, free).any())}
        return found

    def _why(self, label: int) -> str:
        return self.classes.reason_of(label) if label > PINNED else "it comes from values that must stay in place"


def _families(family: Tensor, labels: Tensor) -> Mapping[int, Tensor]:
    """The labels of each family, in order."""
    present = labels[labels > PINNED].unique()
    return {int(f): present[family[present] == f] for f in family[present].unique()}


def _parted(family: Tensor, labels: Tensor, kinds: Tensor | None = None) -> Tensor:
    """Split families whose members occur differently often, or in different kinds of places."""
    weight = torch.ones(labels.shape, dtype=torch.float64)
    if kinds is not None:  # a random number for each kind: sums of equally many of them hardly ever agree
        numbers = torch.randint(1 << 24, (int(kinds.max()) + 1,), generator=torch.Generator().manual_seed(0))
        weight = numbers.double()[kinds.expand(labels.shape)]
    count = torch.bincount(labels.flatten().clamp_min(0), weight.flatten(), minlength=len(family)).long()
    values, kind = count.unique(return_inverse=True)
    return (family * len(values) + kind).unique(return_inverse=True)[1]


def _traded(value: Tensor, labels: Tensor, table: Tensor) -> Tensor:
    return value.flatten()[order(labels.flatten(), table)].view(value.shape)


def _candidates(op: Operation, number: int, value: Tensor) -> Iterator[tuple[Tensor, list[list[int]]]]:
    """Guess the labels of an output, with the labels that would have to be merged."""
    fields = list(op.labelled.values())
    axis = [1, -1, *[1] * (value.dim() - 2)]
    beside = [f.view(axis) if f.dim() == 1 and value.dim() > 2 and len(f) == value.shape[1] else f for f in fields]
    for version in (fields, beside):
        with suppress(RuntimeError):  # they do not broadcast
            yield joined([torch.broadcast_to(labels, value.shape) for labels in version])
    if len(fields) == 1:
        yield from ((labels, []) for labels in op.reduced(number, value))
