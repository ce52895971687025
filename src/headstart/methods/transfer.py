"""Transfer: weights of a trained network by name and shape (the pre-trained baseline of Ulm et al.)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from headstart.adapt.channel_mix import STRATEGIES, adapt_weight
from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.errors import HeadstartError
from headstart.model.checkpoints import Source, bias_in, canonical_in, source_of, weight_in
from headstart.model.parts import Part
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer, to_canonical


@register(
    "pretrained",
    summary="a trained network's weights, norms and statistics by name and shape, except the head",
    reference="the pre-trained baseline of Ulm, Bayer, Diaz-Bone and Jüni, Learning an Informed CNN Initialization for"
    " Image Classification",
    scope="all layers",
    needs_data=False,
    cost="no forward pass of its own; memory for the source",
    deviations=(
        "The user names the source; the baseline picks one of many source models at random.",
        "A head of another size keeps its own start; in the baseline all heads have 10 classes and are copied.",
        "A first convolution with another number of channels is adapted; in the baseline all images have three.",
    ),
    depends_on_other_layers=True,
    revision=3,  # 3: attention's projections, gates and embeddings are layers
)
@dataclass(frozen=True)
class Pretrained(Method):
    """Copy every weight that the source has under the same name and shape, with the norms' parameters and statistics.

    The idea: what a network has learned on one task helps on another. The report says for each layer which tensor it
    got, or why none. Networks of different depth share the layers whose names agree. A norm, or any other module
    without its own weight, is copied together with the layer that is registered before it.

    Args:
        source: A model, a ``state_dict``, a path, or a function ``model -> one of those``. Prefixes of wrappers
            (``module.``, ``_orig_mod.``) are removed.
        head: What to do with layers whose output the model returns (without data: the last layer):
            ``"skip-if-different"`` leaves them if the shape differs, ``"skip"`` always leaves them, ``"require"``
            raises if the shape differs.
        prefix: Use only the source's tensors whose names begin with this, and remove it: ``"backbone."``.
        strict: The smallest share of the selected layers' weights that must come from the source, not counting heads
            that are left. If nothing fits, that is always an error.
        channels: How the first convolution is adapted if the source's takes another number of channels: a strategy
            of :func:`headstart.adapt_weight` (``"repeat"``, ``"mean"``, ``"sum"``, ``"select"``, ``"zeros"``), which
            keeps the response to an input that is the same in all channels; ``"skip"`` leaves the convolution.

    Raises:
        HeadstartError: There is no source, nothing in it or less than ``strict`` fits, or a head does not fit.

    Example:
        >>> import torch, headstart as hs
        >>> old = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
        >>> new = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> report = hs.initialize(new, method=hs.Pretrained(old))
        >>> report.changed, report.row("2").notes
        (['0'], ['the head keeps its start: (10, 8) in the source'])
    """

    source: Any = None
    head: str = "skip-if-different"
    prefix: str = ""
    strict: float = 0.0
    channels: str = "repeat"
    writes_parts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_choice("head", "skip-if-different", "skip", "require")
        self.check_choice("channels", *STRATEGIES, "skip")
        self.check(0 <= self.strict <= 1, f"strict={self.strict!r} is no share", "Pass a number from 0 to 1")
        if self.source is not None:
            object.__setattr__(self, "source", source_of(self.source))

    def identity(self) -> str:
        """The options, with a fingerprint of the source."""
        return identity_of(self, "source")

    def start(self, view: ModelView) -> None:
        """Copy what fits."""
        state = read(self, self.source, view.model, self.prefix)
        final = heads(view.trace)
        counted = copied = 0
        for layer in view.layers:
            value, reason = self._found(state, layer, layer.name in final)
            if value is None and self.channels != "skip" and layer.name == next(iter(view.trace.layers), layer).name:
                value, reason = self._adapted(state, layer, reason)
            if value is None:
                view.report.skip(layer, reason)
            else:
                view.write(layer, value, _fitting_bias(state, layer))
                note = f", {reason}" if reason else ""
                view.report.rows[layer.name].notes.append(f"from '{layer.key()}'{note}")
                copied += value.numel()
            counted += 0 if value is None and layer.name in final else layer.stored.numel()
        share = copied / max(counted, 1)
        label = f"pretrained: {share:.1%} of the weights of the selected layers come from {self.source!r}"
        if not copied or share < self.strict:
            raise HeadstartError(
                f"{label}, {f'less than strict={self.strict:.1%}' if copied else 'that is nothing'}: {_why(view)}.",
                remedy="Compare the names; prefix= removes a prefix that all tensors of the source have.",
            )
        others = copy_others(view, lambda name, tensor: _of_shape(state.get(name), tensor))
        view.report.add_finding(f"{label}, and {len(others)} other tensors.")

    def _found(self, state: Mapping[str, Tensor], layer: Layer, head: bool) -> tuple[Tensor | None, str]:
        """A layer's new weight, or the reason why there is none."""
        key = layer.key()
        if head and self.head == "skip":
            return None, "the head keeps its start"
        value = canonical_in(state, layer)
        if value is not None:
            return value, ""
        shape = f"{tuple(state[key].shape)} in the source" if key in state else f"the source has no '{key}'"
        if head and self.head == "require":
            raise HeadstartError(
                f"pretrained: the head, {layer.where}, does not fit: {shape}.",
                remedy="Pass head='skip-if-different', or build the model with as many outputs.",
            )
        return None, f"the head keeps its start: {shape}" if head else shape

    def _adapted(self, state: Mapping[str, Tensor], layer: Layer, reason: str) -> tuple[Tensor | None, str]:
        """The first convolution's new weight, made from one for other channels, and a note on it."""
        value, shape = weight_in(state, layer), tuple(layer.stored.shape)
        if value is None or layer.kind != "conv" or layer.groups != 1:
            return None, reason
        if (value.shape[0], *value.shape[2:]) != (shape[0], *shape[2:]):
            return None, reason
        adapted = adapt_weight(value, shape[1], self.channels)
        note = f"{value.shape[1]} input channels adapted to {shape[1]} by {self.channels!r}"
        return to_canonical(layer, adapted), note


def read(method: Method, source: Source | None, model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Read a method's source.

    Raises:
        HeadstartError: There is none, it cannot be read, or no name begins with the prefix.
    """
    if source is None:
        raise HeadstartError(
            f"{method.info.name} has no source.", remedy="Pass source=: a model, a state_dict or the path of a file."
        )
    state = source.state(model)
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not found:
        raise HeadstartError(
            f"{method.info.name}: no tensor of {source!r} has a name that begins with {prefix!r}.",
            remedy=f"They begin with {', '.join(sorted({repr(k.split('.')[0]) for k in state})[:5])}.",
        )
    return found


def identity_of(method: Any, option: str) -> str:
    """A method's options, with a fingerprint of the source."""
    source = getattr(method, option)
    return repr(method) if source is None else f"{replace(method, **{option: None})!r} {source.fingerprint}"


def heads(trace: ModelTrace) -> Set[str]:
    """Names of the layers whose output the model returns; without data, the last registered layer.

    A layer that is tied to an embedding does not count: it belongs to the tokens.
    """
    named = trace.outputs if trace.traced else {layer.name for layer in trace.layers[-1:]}
    tokens = {id(p) for part in trace.parts for p in _embedded(part)}
    tied = {la.name for la in trace.layers if tokens.intersection(map(id, la.weight_parameters()))}
    return named - tied


def _embedded(part: Part) -> list[nn.Parameter]:
    return part.weight_parameters() if isinstance(part.module, (nn.Embedding, nn.EmbeddingBag)) else []


def companions(
    model: nn.Module, layers: Sequence[Layer], parts: Sequence[Part]
) -> Iterator[tuple[str, Tensor, str | None]]:
    """Parameters and buffers outside the weight layers, each with the layer that is registered before it.

    Args:
        model: The model.
        layers: Its weight layers.
        parts: Parts of modules that are treated as layers; other tensors of their modules count as outside.
    """
    names = {id(each.module): each.name for each in [*parts, *layers]}
    inside = {id(module) for layer in layers for module in layer.module.modules()}
    owner: str | None = None
    seen = {id(p) for part in parts for p in (*part.weight_parameters(), part.bias_parameter) if p is not None}
    for path, module in model.named_modules():
        owner = names.get(id(module), owner)
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and id(module) not in inside and id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{path}.{name}" if path else name, tensor, owner


def copy_others(view: ModelView, value_of: Callable[[str, Tensor], Tensor | None]) -> list[str]:
    """Write the parameters and buffers outside the weight layers that belong to a written layer; return their names.

    Args:
        view: The model, after its layers were written.
        value_of: ``(name, tensor) -> new value``, or None to leave it.
    """
    trace, written = view.trace, []
    left = {name for name, row in view.report.rows.items() if view.method not in row.methods}
    parts = [part for part in trace.parts if part.name in view.report.rows]
    for name, tensor, owner in companions(view.model, [*trace.layers, *trace.unreached], parts):
        frozen = isinstance(tensor, nn.Parameter) and not tensor.requires_grad
        if owner in left or frozen or not view.transaction.holds(tensor):
            continue
        value = value_of(name, tensor)
        if value is not None:
            view.write_tensor(name, tensor, value)
            written.append(name)
    return written


def _of_shape(value: Tensor | None, tensor: Tensor) -> Tensor | None:
    return value if value is not None and value.shape == tensor.shape else None


def _fitting_bias(state: Mapping[str, Tensor], layer: Layer) -> Tensor | None:
    bias = bias_in(state, layer)
    return bias if bias is not None and len(bias) == layer.out_channels else None


def _why(view: ModelView) -> str:
    """Why the first layers got nothing."""
    notes = {layer.name: view.report.rows[layer.name].notes for layer in view.layers}
    found = [f"'{name}': {text[-1]}" for name, text in notes.items() if text and not text[-1].startswith("from ")]
    return "; ".join(found[:3]) + (" …" if len(found) > 3 else "") if found else "no layer was selected"
