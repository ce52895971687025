"""How scales pass through a network: which layers' outputs can be rescaled, and which layers take them.

Every value of a traced pass carries a *scale class*. A weight layer's output gets a new class. Operations
that are positively homogeneous pass it on. A sum merges the classes of its terms, since they can only be scaled
together. Any other operation pins the class of its input to the present scale. To learn what an operation does to
scales, it is run again on rescaled inputs. Only the commonest operations on values of a single class are looked up (see
`known_operations`), so that for most networks the device runs only one small forward pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from headstart.model.forward import first_input, run
from headstart.model.hooks import hooked
from headstart.model.inputs import Batch
from headstart.model.norms import is_norm, never_run
from headstart.model.returned import all_tensors
from headstart.model.weights import Layer
from headstart.symmetries.known_operations import is_known
from headstart.symmetries.operations import ANY, PINNED, Classes, Operation, written
from headstart.symmetries.scale_classes import Integers, LayerClasses, ScaleFlow

_ALMOST = frozenset(["gelu", "silu", "elu", "celu", "mish", "hardswish", "hardtanh", "softplus", "tanh"])
_LARGE = 100.0  # values this large show the bends that small ones do not reach
Labels = Tensor | int  # of each value, or one class for all of them
Done = Callable[[Tensor, Labels, Tensor], "Labels | None"]  # input, its labels, output -> labels of the output


@dataclass
class _Use:
    """A layer, and the labels of its inputs and outputs."""

    layer: Layer
    inputs: Labels
    outputs: Labels


def trace_scales(
    model: nn.Module,
    batch: Batch,
    layers: Sequence[Layer],
    fixed: Collection[str],
    rigid: Collection[str],
    channels: bool = False,
    norms: Collection[str] | None = None,
) -> ScaleFlow:
    """Run the model and follow the scales.

    Args:
        model: In evaluation mode, inside a transaction.
        batch: A small batch: every operation runs a few times.
        layers: All layers that run, in execution order.
        fixed: Names of layers that must not be rescaled.
        rigid: Names of layers whose bias must not be rescaled.
        channels: Follow every channel separately instead of every layer.
        norms: Names of normalizations, if they are known; otherwise modules named so.

    Raises:
        ModelError: The model's forward failed.
    """
    tracer = Tracer(fixed, rigid, channels, norms)
    with torch.no_grad(), tracer.hooked(model, layers), tracer:
        returned = run(model, batch)
    return tracer.finish(returned)


class Tracer(TorchDispatchMode):
    """Follows the labels of values through the operations of a forward pass, and tests what each does to scales."""

    def __init__(
        self, fixed: Collection[str], rigid: Collection[str], channels: bool, norms: Collection[str] | None = None
    ) -> None:
        super().__init__()
        self._norms = norms
        self._fixed, self._rigid, self._channels = fixed, rigid, channels
        self.classes = Classes()
        self.flow = ScaleFlow()
        self._labels: dict[int, tuple[Tensor, Labels]] = {}  # by id: the value, kept alive, and its labels
        self._uses: dict[str, _Use] = {}
        self._taken: dict[str, tuple[int, Labels]] = {}  # by the name of a norm: its features and what it takes
        self._almost: list[int] = []
        self._normed: list[int] = []
        self._outside = 0  # how many modules deep in what is not looked into
        self.draw = torch.Generator().manual_seed(0)

    # What runs -----------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._outside:
            return func(*args, **kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        live = [i for i, leaf in enumerate(leaves) if self.is_live(leaf)]
        targets = {id(value) for value in written(func, args, kwargs)}
        if not live:
            result = func(*args, **kwargs)
            self._overwritten([leaf for leaf in leaves if id(leaf) in targets], None)
            return result
        whole = self._whole(func, args, kwargs, leaves)
        clone = targets if whole is None else ()
        kept = [leaf.clone() if id(leaf) in clone else leaf for leaf in leaves] if clone else leaves
        result = func(*args, **kwargs)
        with self._looking():
            outputs = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
            if whole is not None:
                found: list[Labels | None] = [whole if value.is_floating_point() else None for value in outputs]
            else:
                op = Operation(func, kept, spec, {i: self.labels(leaves[i]) for i in live})
                tried = [None if op.aside(v) else self.judge(op, number, v) for number, v in enumerate(outputs)]
                found = [None if labels is None else self._simplified(labels) for labels in tried]
            same = self._overwritten([leaf for leaf in leaves if id(leaf) in targets], outputs)
            for value, labels in zip(outputs, found, strict=True):
                if labels is not None:
                    for alias in [value, *same.get(id(value), ())]:
                        self._labels[id(alias)] = (alias, labels)
        return result

    def _overwritten(self, values: list[Tensor], outputs: list[Tensor] | None) -> dict[int, list[Tensor]]:
        """Forget overwritten values, and return the other values on the same memory, by the id of the written value.

        Values that share only part of that memory, or are written by an operation that is not followed, cannot be
        followed any further.
        """
        same: dict[int, list[Tensor]] = {}
        for value in values:
            place = value.untyped_storage().data_ptr()
            for key, (other, labels) in list(self._labels.items()):
                if key == id(value):
                    del self._labels[key]
                elif other.untyped_storage().data_ptr() == place:
                    if outputs is not None and _same_memory(other, value):
                        same.setdefault(id(value), []).append(other)
                        del self._labels[key]
                    elif outputs is None or all(other is not output for output in outputs):
                        self.pin(labels, "it is written into in part")
        return same

    def _whole(self, func: Any, args: Any, kwargs: Any, leaves: list[Any]) -> int | None:
        """The single class that an operation passes on, if it is known and all its inputs have a single class."""
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        found = [self._labels[id(t)][1] if self.is_live(t) else PINNED for t in tensors]
        classes = [self.classes.root(labels) for labels in found if isinstance(labels, int)]
        if PINNED in classes or len(classes) < len(tensors):
            return None
        if not is_known(func, args, kwargs, len(set(classes)) > 1):
            return None
        return self.classes.merge(classes)

    def _simplified(self, labels: Tensor) -> Labels:
        """A single class in place of a tensor that holds only this class."""
        if self._channels or not labels.numel():
            return labels
        first = labels.flatten()[0]
        return int(first) if bool((labels == first).all()) else labels

    def judge(self, op: Operation, number: int, value: Tensor) -> Tensor | None:
        """Find the labels of an operation's output; pin its inputs if it has none."""
        if not value.is_floating_point():
            if not op.invariant(number, self._factors(op)):
                self.pin_all(op, f"{op.name} compares it with something of a fixed scale")
            return None
        moved = op.moved(number)
        if moved is not None and moved.shape == value.shape:
            return moved
        for candidate, merged in op.candidates(number, value, self.classes):
            if op.homogeneous(number, candidate, merged, self._factors(op)):
                for group in merged:
                    self.classes.merge(group)
                return self.classes.roots(candidate)
        together = [op.classes(self.classes)]
        for groups in ([], together):
            if op.invariant(number, self._factors(op), groups):
                for group in groups:
                    self.classes.merge(group)
                return None
        if op.family in _ALMOST and len(op.labelled) == 1:
            labels = next(iter(op.labelled.values()))
            if labels.shape == value.shape:
                self._almost += labels.unique().tolist()
                return labels
        return self.by_role(op, number, value, f"{op.name} is not homogeneous")

    def by_role(self, op: Operation, number: int, value: Tensor, why: str) -> Tensor | None:
        """Pin the inputs of an operation. If they have different roles, as in attention, judge each one alone."""
        if op.family != "attention" or len(op.labelled) < 2:
            self.pin_all(op, why)
            return None
        handed: Tensor | None = None
        for part in op.alone():
            if not part.classes(self.classes):  # pinned with another one
                continue
            labels = self.judge(part, number, value)
            if handed is not None and labels is not None:  # both at once would count twice
                self.pin_all(part, why)
            handed = labels if handed is None else handed
        return None if handed is None else self.classes.roots(handed)

    def _factors(self, op: Operation) -> list[dict[int, float]]:
        """Draw two factors for every class: a moderate one, and one that makes values large."""
        present = op.classes(self.classes)
        drawn = torch.rand(len(present), generator=self.draw).tolist()
        moderate = {label: 2 ** (2 * u - 1) for label, u in zip(present, drawn, strict=True)}
        large = {label: factor * max(1.0, _LARGE / max(op.size, 1e-30)) for label, factor in moderate.items()}
        return [moderate, large]

    # Values and modules --------------------------------------------------------------------------------------

    def labels(self, value: Tensor) -> Tensor:
        """The present labels of a value; pinned if nothing is known of it."""
        found = self._own(value)
        return found if isinstance(found, Tensor) else torch.full((), found).expand(value.shape)

    def _own(self, value: Tensor) -> Labels:
        known = self._labels.get(id(value))
        return PINNED if known is None else self._roots(known[1])

    def _roots(self, labels: Labels) -> Labels:
        return self.classes.root(labels) if isinstance(labels, int) else self.classes.roots(labels)

    def is_live(self, value: Any) -> bool:
        """Tell whether a value has labels that are not all pinned."""
        if not isinstance(value, Tensor) or id(value) not in self._labels:
            return False
        labels = self._own(value)
        return labels > PINNED if isinstance(labels, int) else bool((labels > PINNED).any())

    def pin(self, labels: Labels, why: str) -> None:
        """Pin the classes of some labels."""
        self.classes.pin(_distinct(labels), why)

    def pin_all(self, op: Operation, why: str) -> None:
        """Pin all inputs of an operation."""
        for labels in op.labelled.values():
            self.pin(labels, why)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        self._outside += 1
        try:
            yield
        finally:
            self._outside -= 1

    @contextmanager
    def hooked(self, model: nn.Module, layers: Sequence[Layer]) -> Iterator[None]:
        """Treat weight layers and normalizations as units, not as the operations inside."""
        own = {id(layer.module) for layer in layers}
        parts = [(self._layer(layer), layer.module) for layer in layers]
        named = [(n, m) for n, m in model.named_modules() if self._is_norm(n, m)]
        parts += [(self._norm(n, m), m) for n, m in named if id(m) not in own]
        with self.whole(parts):
            yield

    def _is_norm(self, name: str, module: nn.Module) -> bool:
        return is_norm(module) if self._norms is None else name in self._norms

    @contextmanager
    def whole(self, modules: Iterable[tuple[Done, nn.Module]]) -> Iterator[None]:
        """Treat modules as units: ``done(input, its labels, output)`` returns the labels of the output."""
        before: dict[Done, list[tuple[Tensor, Labels] | None]] = defaultdict(list)

        def enter(done: Done, args: Any, kwargs: Any) -> None:
            value = first_input(args, kwargs)
            self._outside += 1
            outer = self._outside > 1 or not isinstance(value, Tensor)
            # Labels as they are now: an in-place operation may write over the value.
            before[done].append(None if outer else (value, self._taken_labels(value)))

        def leave(done: Done, args: Any, kwargs: Any, output: Any) -> None:
            taken = before[done].pop()
            if taken is not None and isinstance(output, Tensor):
                labels = done(*taken, output)
                self._labels.pop(id(output), None)
                if labels is not None:
                    self._labels[id(output)] = (output, labels)
            self._outside -= 1

        with hooked(modules, enter, leave, place="first"):
            yield

    def _taken_labels(self, value: Tensor) -> Labels:
        return self.labels(value) if self._channels else self._own(value)

    def _layer(self, layer: Layer) -> Done:
        def done(value: Tensor, labels: Labels, output: Tensor) -> Labels | None:
            inputs = self.by_channel(labels, layer.channel_axis(value))
            use = self._uses.get(layer.name)
            if use is None:
                use = self._uses[layer.name] = _Use(layer, inputs, self.new_labels(layer.out_channels))
            else:  # one weight for several uses: they are rescaled alike
                use.inputs = self.alike(use.inputs, inputs)
            outputs = use.outputs
            bias = layer.module.bias
            if layer.name in self._fixed:
                self._pass_through(layer, use)
            elif layer.name in self._rigid and bool((moved := bias.cpu() != 0).any()):
                self.pin(outputs if isinstance(outputs, int) else outputs[moved], "its bias is left alone")
            if isinstance(outputs, int):
                return outputs
            shape = [1] * output.dim()
            shape[layer.channel_axis(output)] = -1
            return outputs.view(shape).expand(output.shape)

        return done

    def alike(self, first: Labels, other: Labels) -> Labels:
        """Merge the channels of two uses pairwise; a channel that was always zero takes the other's class."""
        if isinstance(first, int) and isinstance(other, int):
            return self.classes.merge([first, other])
        some, others = torch.broadcast_tensors(torch.as_tensor(first), torch.as_tensor(other))
        for mine, its in zip(some.tolist(), others.tolist(), strict=True):
            self.classes.merge([mine, its])
        return torch.where(some == ANY, others, some)

    def new_labels(self, channels: int) -> Labels:
        """Create a class for a layer's output, or for each of its channels."""
        if self._channels:
            return torch.tensor([self.classes.new() for _ in range(channels)])
        return self.classes.new()

    def _pass_through(self, layer: Layer, use: _Use) -> None:
        """A layer that must not be rescaled passes on the scale of its input, or pins it if it has a bias."""
        bias = layer.module.bias
        classes = [*_distinct(use.outputs), *_distinct(use.inputs)]
        if bias is not None and bool(bias.any()):
            self.classes.pin(classes, f"'{layer.name}' is left alone and has a bias")
        else:
            self.classes.merge(classes)

    def _norm(self, name: str, module: nn.Module) -> Done:
        def done(value: Tensor, labels: Labels, output: Tensor) -> Labels | None:
            present = _distinct(labels)
            if max(present, default=PINNED) <= PINNED:
                return None
            if isinstance(module, _BatchNorm) and value.dim() > 1:
                channels = self.by_channel(labels, 1)
                if not never_run(module):
                    before = self._taken[name][1] if name in self._taken else channels
                    self._taken[name] = module.num_features, self.alike(before, channels)
                    return None
            else:  # it may take its statistics over all channels
                self.classes.merge(present)
            self._normed += present
            return None

        return done

    def by_channel(self, labels: Labels, axis: int) -> Labels:
        """One class for each channel: different classes within a channel are merged."""
        if isinstance(labels, int):
            return labels
        channels = labels.movedim(axis, 0).unsqueeze(-1).flatten(1)
        found = channels.amax(1)  # ANY is the smallest
        mixed = ((channels != found.unsqueeze(1)) & (channels != ANY)).any(1)
        for number in torch.nonzero(mixed).flatten().tolist():
            found[number] = self.classes.merge(channels[number].unique().tolist())
        return found

    def finish(self, returned: Any) -> ScaleFlow:
        """Pin what the model returns, and return the classes of all layers."""
        for leaf in all_tensors(returned):
            if id(leaf) in self._labels:
                self.pin(self._own(leaf), "the model returns it")
        for name, use in self._uses.items():
            inputs = self._array(use.inputs, use.layer.in_channels)
            outputs = self._array(use.outputs, use.layer.out_channels)
            self.flow.uses[name] = LayerClasses(inputs, outputs)
            if bool((outputs == PINNED).all()):
                self.flow.reasons[name] = self.classes.reason_of(_distinct(use.outputs)[0])
        self.flow.norms = {name: self._array(labels, features) for name, (features, labels) in self._taken.items()}
        self.flow.normed = {self.classes.root(label) for label in self._normed} - {PINNED, ANY}
        self.flow.almost = {self.classes.root(label) for label in self._almost} - {PINNED, ANY} - self.flow.normed
        return self.flow

    def _array(self, labels: Labels, size: int) -> Integers:
        found = self._roots(labels)
        return np.full(size, found) if isinstance(found, int) else found.numpy()


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors are the same: an alias, or a view of the whole in its own shape."""
    return a.data_ptr() == b.data_ptr() and (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


def _distinct(labels: Labels) -> list[int]:
    found: list[int] = [labels] if isinstance(labels, int) else labels.unique().tolist()
    return found
