"""Weight selection: a small network starts from evenly spaced channels of a larger one (Xu et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.errors import HeadstartError, ModelError
from headstart.measure.attention import find_attention
from headstart.methods.transfer import copy_others, heads, identity_of, read
from headstart.model.checkpoints import bias_in, source_of, weight_in
from headstart.model.parts import Part
from headstart.model.weights import Layer, to_canonical
from headstart.symmetries.channel_flow import trace_channels
from headstart.symmetries.operations import PINNED
from headstart.symmetries.permutation import ChannelLabels, PermutationGroups


@register(
    "weight-selection",
    summary="every tensor from a larger network of the same family, evenly spaced along each axis",
    reference="Xu et al. 2024, Initializing models with larger ones",
    scope="all layers",
    needs_data=False,
    cost="no forward pass of its own; with data, some ten of two samples to see how channels travel",
    deviations=(
        "Flattened or concatenated inputs use the channels that were selected in the layers before. Published code"
        " selects along every axis separately, which mixes up channels there.",
        "Grouped layers are selected only if groups stay whole; others are left and named.",
        "scale='fan-in' is an addition: it keeps the scale of sums over fewer inputs.",
    ),
    depends_on_other_layers=True,
    revision=2,  # attention's projections, gates and embeddings are layers
)
@dataclass(frozen=True)
class WeightSelection(Method):
    """From each of the teacher's tensors, select as many values along every axis as the student has.

    The idea: a larger trained network of the same family contains a smaller one. Axes of the same size are selected
    in the same way everywhere, so a channel stays connected to the layers that use it. If sizes divide, every
    ``t / s``-th value is taken, else ``round(linspace(0, t - 1, s))``. The head keeps its start.

    With data, the model is run to see which layers' channels reach which inputs. Without data, inputs that are no
    layer's outputs are treated as channel-major blocks of the layer before, or left.

    Queries, keys and values, and the gates of recurrent layers, are each selected from their counterpart, also if
    one parameter holds them all. If one linear layer makes them, this needs data.

    Args:
        source: The teacher: a model, a ``state_dict``, a path, or a function ``model -> one of those``.
        blocks: Which of the teacher's numbered blocks the student's blocks use: ``"first"`` those of the same name,
            ``"spaced"`` evenly spaced ones.
        scale: ``"raw"`` (published): unchanged; ``"fan-in"``: multiplied by the teacher's fan-in over the student's.
        head: ``"skip"`` leaves layers whose output the model returns; ``"select"`` treats them like all others.
        prefix: Use only the teacher's tensors whose names begin with this, and remove it.

    Raises:
        HeadstartError: There is no source, the teacher is smaller along some axis, or nothing in it fits.

    Example:
        >>> import torch, headstart as hs
        >>> def net(width):
        ...     return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 3))
        >>> teacher, student = net(32), net(8)
        >>> report = hs.initialize(student, method=hs.WeightSelection(teacher))
        >>> torch.equal(student[0].weight, teacher[0].weight[::4])
        True
        >>> report.row("0").notes
        ["from '0.weight' (32, 4)"]
    """

    source: Any = None
    blocks: str = "first"
    scale: str = "raw"
    head: str = "skip"
    prefix: str = ""
    writes_parts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_choice("blocks", "first", "spaced")
        self.check_choice("scale", "raw", "fan-in")
        self.check_choice("head", "skip", "select")
        if self.source is not None:
            object.__setattr__(self, "source", source_of(self.source))

    def identity(self) -> str:
        """The options, with a fingerprint of the teacher."""
        return identity_of(self, "source")

    def start(self, view: ModelView) -> None:
        """Select and write."""
        state = read(self, self.source, view.model, self.prefix)
        names = block_names(view.model.state_dict(), state) if self.blocks == "spaced" else {}
        state = {key: state[names.get(key, key)] for key in {*state, *names} if names.get(key, key) in state}
        parts = [part for part in view.trace.parts if part.name in view.report.rows]
        axes = Axes([*view.trace.layers, *view.trace.unreached, *parts], state)
        if view.batch is not None and axes.teacher:
            axes.follow(view)
        final = heads(view.trace) if self.head == "skip" else set()
        written = 0
        for layer in view.layers:
            reason = "the head keeps its start" if layer.name in final else self._select(view, layer, state, axes)
            if reason:
                view.report.skip(layer, reason)
            else:
                key = layer.key()
                shape = tuple(axes.teacher[layer.name].shape)
                view.report.rows[layer.name].notes.append(f"from '{names.get(key, key)}' {shape}")
                written += 1
        if not written:
            notes = [f"'{la.name}': {row.notes[-1]}" for la in view.layers if (row := view.report.rows[la.name]).notes]
            raise HeadstartError(
                f"weight-selection: nothing in {self.source!r} fits the model: {'; '.join(notes[:3])}.",
                remedy="Compare the names; the teacher must be of the same family.",
            )
        others = copy_others(view, lambda name, tensor: axes.selected(state.get(name), name, tensor))
        view.report.add_finding(
            f"weight-selection: {written} layers and {len(others)} other tensors come from {self.source!r}."
        )

    def _select(self, view: ModelView, layer: Layer, state: Mapping[str, Tensor], axes: Axes) -> str:
        """Write one layer, or say why not."""
        weight = axes.teacher.get(layer.name)
        if weight is None:
            return f"the teacher has no '{layer.key()}' of {len(layer.shape)} axes"
        shape = tuple(weight.shape)
        if any(t < s for t, s in zip(shape, layer.shape, strict=True)):
            raise HeadstartError(
                f"weight-selection: the teacher is smaller than {layer.where}: its weight is {shape}.",
                remedy=f"Choose a larger teacher, or leave the layer out: exclude='{layer.name}'.",
            )
        into = axes.inputs(layer)
        if isinstance(into, str):
            return into
        out = axes.outputs(layer)
        for axis, index in enumerate([out, into, *map(pick, shape[2:], layer.shape[2:])]):
            weight = weight.index_select(axis, index.to(weight.device))
        if self.scale == "fan-in":
            weight = weight * (math.prod(shape[1:]) / math.prod(layer.shape[1:]))
        bias = bias_in(state, layer)
        view.write(layer, weight, bias[out.to(bias.device)] if bias is not None and len(bias) == shape[0] else None)
        return ""


class Axes:
    """Which of the teacher's indices each axis of the student takes.

    Args:
        layers: The student's, in order.
        state: The teacher's tensors, under the student's names.

    Attributes:
        teacher: Layer name -> the teacher's weight, canonical.
    """

    def __init__(self, layers: Sequence[Layer], state: Mapping[str, Tensor]) -> None:
        self.layers = {layer.name: layer for layer in layers}
        self.teacher: dict[str, Tensor] = {}
        for layer in layers:
            value = weight_in(state, layer)
            if value is not None and (layer.kind != "transposed" or value.shape[0] % layer.groups == 0):
                self.teacher[layer.name] = to_canonical(layer, value)
        self._sizes = {(len(value), self.layers[name].out_channels) for name, value in self.teacher.items()}
        self._wiring: PermutationGroups | None = None
        self._blocks: dict[str, int] = {}

    def follow(self, view: ModelView) -> None:
        """Run the model to see which layers' channels reach which inputs."""
        assert view.batch is not None
        try:
            self._wiring = trace_channels(view.model, view.batch)
        except ModelError as error:
            view.report.add_finding(
                f"weight-selection: inputs are matched by their sizes, since channels could not be followed: {error}"
            )
        for attention in find_attention(view.model, view.batch).attentions:
            made = [attention.query, attention.key, attention.value]
            for name in {rows.layer for rows in made}:
                own = [sorted(i for head in rows.rows for i in head) for rows in made if rows.layer == name]
                blocks = sorted(own) if len({*map(len, own)}) == 1 else []
                if [i for block in blocks for i in block] == list(range(self.layers[name].out_channels)):
                    self._blocks[name] = len(blocks)

    def outputs(self, layer: Layer) -> Tensor:
        """The indices of a layer's outputs; separately for each block, if one layer makes queries, keys and values."""
        of, count, blocks = len(self.teacher[layer.name]), layer.out_channels, self._blocks.get(layer.name, 1)
        if of % blocks:
            return pick(of, count)
        return torch.cat([block * (of // blocks) + pick(of // blocks, count // blocks) for block in range(blocks)])

    def inputs(self, layer: Layer) -> Tensor | str:
        """The indices of a layer's inputs (of one group), or why they are not known."""
        (t_out, t), (s_out, s) = self.teacher[layer.name].shape[:2], layer.shape[:2]
        if layer.groups > 1:
            same = (t_out, t) == (s_out, s)
            together = t_out % s_out == 0 and t % s == 0 and (t * layer.groups, layer.in_channels) in self._sizes
            single = t == s == 1 and (t_out % s_out == 0 or s_out == layer.groups)
            return pick(t, s) if same or single or together else "its groups would not fit the layers before"
        found = None if self._wiring is None else self._traced(self._wiring.layers.get(layer.name), t)
        if found is None:
            found = self._by_size(t, s, layer)
        return "its inputs are not outputs of a layer, so it is not known which to take" if found is None else found

    def selected(self, value: Tensor | None, name: str, tensor: Tensor) -> Tensor | None:
        """The selected part of a teacher's tensor that is outside the weight layers; None if there is none."""
        if (
            value is None
            or value.dim() != tensor.dim()
            or any(t < s for t, s in zip(value.shape, tensor.shape, strict=True))
        ):
            return None
        labels = None if self._wiring is None else self._wiring.other_tensors.get(name)
        if tensor.dim() == 1 and labels is not None:
            found = self._parts(labels, len(value))
            if found is not None:
                return value[found.to(value.device)]
        for axis, size in enumerate(tensor.shape):
            found = self._by_size(value.shape[axis], size)
            if found is None:
                return None
            value = value.index_select(axis, found.to(value.device))
        return value

    def _traced(self, use: ChannelLabels | None, total: int) -> Tensor | None:
        return None if use is None else self._parts(use.inputs, total)

    def _parts(self, labels: Tensor, total: int) -> Tensor | None:
        """The indices of inputs that are outputs of layers, concatenated, each channel at one or more positions."""
        found, offset = [], 0
        while len(labels):
            repeat = int((labels == labels[0]).long().cumprod(0).sum())
            makers = [
                name
                for name, use in (self._wiring.layers.items() if self._wiring is not None else ())
                if name in self.teacher and self._begins(labels, use.outputs, repeat)
            ]
            if int(labels[0]) <= PINNED or not makers:
                return None
            name = max(makers, key=lambda n: self.layers[n].out_channels)
            of, count = len(self.teacher[name]), self.layers[name].out_channels
            if of < count:
                return None
            blocks = pick(of, count)[:, None] * repeat + torch.arange(repeat)
            found.append(offset + blocks.flatten())
            offset, labels = offset + of * repeat, labels[count * repeat :]
        return torch.cat(found) if found and offset == total else None

    @staticmethod
    def _begins(labels: Tensor, outputs: Tensor, repeat: int) -> bool:
        own = outputs.repeat_interleave(repeat)
        return torch.equal(labels[: len(own)], own)

    def _by_size(self, t: int, s: int, layer: Layer | None = None) -> Tensor | None:
        """The indices along an axis of which only the size is known."""
        if t == s or (t, s) in self._sizes:
            return pick(t, s)
        if (
            layer is not None and layer.kind == "linear" and not isinstance(layer, Part)
        ):  # flattened: all positions of one channel, then the next
            names = list(self.layers)
            before = names[max(0, names.index(layer.name) - 1)]
            of, count = len(self.teacher.get(before, ())), self.layers[before].out_channels
            if of >= count and t % of == 0 and s % count == 0 and t // of == s // count:
                repeat = s // count
                return (pick(of, count)[:, None] * repeat + torch.arange(repeat)).flatten()
            return None
        ratios = {of / count for of, count in self._sizes if of != count}
        # One whole ratio everywhere: parts of a concatenation are spaced as the whole is.
        return pick(t, s) if ratios == {t / s} and t % s == 0 else None


def pick(of: int, count: int) -> Tensor:
    """Evenly spaced indices; every ``t / s``-th if sizes divide.

    Example:
        >>> pick(12, 4).tolist(), pick(10, 4).tolist()
        ([0, 3, 6, 9], [0, 3, 6, 9])
    """
    if count and of % count == 0:
        return torch.arange(0, of, of // count)
    return torch.linspace(0, of - 1, count, dtype=torch.float64).round().long()


def block_names(student: Iterable[str], teacher: Iterable[str]) -> dict[str, str]:
    """For each of the student's names the teacher's name, with numbered blocks evenly spaced.

    Example:
        >>> block_names(["b.0.conv.bias", "b.1.conv.bias"], [f"b.{i}.conv.bias" for i in range(5)])
        {'b.0.conv.bias': 'b.0.conv.bias', 'b.1.conv.bias': 'b.4.conv.bias'}
    """
    mine, theirs = _blocks(student), _blocks(teacher)
    found = {}
    for key in student:
        own, other = "", ""
        for part in key.split("."):
            few, many = mine.get(own, []), theirs.get(other, [])
            name = part
            if part.isdigit() and int(part) in few and len(few) < len(many):
                place = torch.linspace(0, len(many) - 1, len(few), dtype=torch.float64).round().long()
                name = str(many[int(place[few.index(int(part))])])
            own, other = f"{own}{part}.", f"{other}{name}."
        found[key] = other[:-1]
    return found


def _blocks(names: Iterable[str]) -> dict[str, list[int]]:
    """Prefix of names -> the numbers of its blocks, which are modules with modules inside, not single layers."""
    found: dict[str, dict[int, bool]] = {}
    for name in names:
        parts = name.split(".")
        for place, part in enumerate(parts):
            if part.isdigit():
                inner = found.setdefault("".join(f"{p}." for p in parts[:place]), {})
                inner[int(part)] = inner.get(int(part), False) or len(parts) > place + 2
    return {prefix: sorted(inner) for prefix, inner in found.items() if all(inner.values())}
