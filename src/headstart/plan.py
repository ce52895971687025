"""What is known of a model before anything is written: order, ties, norms, and who may be written."""

from __future__ import annotations

import fnmatch
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headstart.errors import HeadstartError, ModelError, unknown
from headstart.inputs import Batch
from headstart.norms import is_norm
from headstart.report import Row
from headstart.weights import LAYERS, Layer

Pattern = str | type[nn.Module] | Callable[[str, nn.Module], bool]
Selection = Pattern | Sequence[Pattern] | None
_KEEP_FLAGS = ("_is_hf_initialized", "_no_reinit")
_RECENT = 16  # layer outputs held alive while looking for the norm that takes them


@dataclass
class Plan:
    """The model as a forward pass shows it.

    Attributes:
        layers: Weight layers that run, in execution order (registration order without data).
        unreached: Weight layers that the forward never calls.
        calls: How often each layer runs.
        norm_after: Layer name -> name of the normalization module that takes its output directly.
        norms: Names of all normalization modules that run.
        outputs: Names of layers whose output the model returns.
        rows: Report row of every layer.
        findings: Sentences for the report.
        traced: Whether a forward pass was seen.
        frozen: Names of selected layers left alone because they do not train.
        excluded: Names of layers that the caller left out, or that are flagged as loaded: they stay as they are.
        tied_biases: Names of layers whose bias belongs to a layer before them.
        filters: The first convolution's filters (before, after), once it was written.
        statistics: Names of batch norms whose running statistics moved with a rescale.
        others: Names of written parameters and buffers outside of the weight layers.
    """

    layers: list[Layer] = field(default_factory=list)
    unreached: list[Layer] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    norm_after: dict[str, str] = field(default_factory=dict)
    norms: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    rows: dict[str, Row] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    traced: bool = False
    frozen: set[str] = field(default_factory=set)
    excluded: set[str] = field(default_factory=set)
    tied_biases: set[str] = field(default_factory=set)
    filters: tuple[Tensor, Tensor] | None = None
    statistics: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def skip(self, layer: Layer, reason: str) -> None:
        """Say in the report why a layer is left as it is."""
        row = self.rows[layer.name]
        if row.action == "left":
            row.action = "skipped"
        row.notes.append(reason)

    @property
    def first_convolution(self) -> Layer | None:
        """The first convolution with a kernel of more than one tap, in execution order."""
        return next((la for la in self.layers if la.kind == "conv" and math.prod(la.kernel) > 1), None)

    def find(self, sentence: str) -> None:
        """Add a finding, once."""
        if sentence not in self.findings:
            self.findings.append(sentence)


def full_precision(model: nn.Module) -> torch.autocast:
    """Switch off an autocast that the caller may be in: statistics want the model's own precision."""
    device = next((p.device.type for p in model.parameters()), "cpu")
    return torch.autocast(device, enabled=False)


def weight_layers(model: nn.Module) -> list[Layer]:
    """All weight layers under their first qualified name, in registration order."""
    return [Layer(name, m) for name, m in model.named_modules() if isinstance(m, LAYERS)]


def make_plan(model: nn.Module, batch: Batch | None) -> Plan:
    """Trace one small forward pass (two samples), or list the layers where there is no data.

    Raises:
        ModelError: No weight layer, or the forward fails.
    """
    layers = weight_layers(model)
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no weight layer (Conv1-3d, ConvTranspose1-3d or Linear).",
            remedy="Pass the model that holds the layers.",
        )
    plan = Plan(layers, calls={layer.name: 1 for layer in layers}) if batch is None else _trace(model, layers, batch)
    for layer in [*plan.layers, *plan.unreached]:
        plan.rows[layer.name] = Row(layer.name, type(layer.module).__name__, layer.shape)
    for layer in plan.unreached:
        plan.rows[layer.name].action = "not reached"
        plan.rows[layer.name].notes.append("the forward pass does not call this module")
    for name, n in plan.calls.items():
        if n > 1:
            plan.rows[name].notes.append(f"runs {n} times; treated on its first use")
    return plan


class Where:
    """Which layer is computing, for errors."""

    layer: Layer | None = None
    shape: tuple[int, ...] = ()

    def enter(self, layer: Layer, value: Any) -> None:
        """Note that ``layer`` starts on ``value``."""
        self.layer, self.shape = layer, tuple(value.shape) if isinstance(value, Tensor) else ()

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Keep track of the layers of ``model`` by hooks."""
        handles = []
        for layer in weight_layers(model):
            handles += [
                layer.module.register_forward_pre_hook(
                    lambda _module, args, kwargs, layer=layer: self.enter(layer, first_input(args, kwargs)),
                    with_kwargs=True,
                ),
                layer.module.register_forward_hook(lambda *_: setattr(self, "layer", None)),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tensor that a layer is called with."""
    return args[0] if args else kwargs.get("input", next(iter(kwargs.values()), None))


@contextmanager
def failing_forward(batch: Batch, where: Where) -> Iterator[None]:
    """Turn whatever the model's own code raises into one clear error."""
    try:
        yield
    except HeadstartError:
        raise
    except Exception as error:
        inside = f" in {where.layer.where}, given an input of shape {where.shape}" if where.layer else ""
        raise ModelError(
            f"The model's forward failed on {batch}{inside}: {type(error).__name__}: {str(error).rstrip('.')}.",
            remedy="Check the shape, channels, size and dtype of the data against the model, or pass get_inputs=.",
        ) from error


def _trace(model: nn.Module, layers: list[Layer], batch: Batch) -> Plan:
    try:
        return _trace_once(model, layers, batch.head(2))
    except ModelError:
        if batch.size <= 2:
            raise
        return _trace_once(model, layers, batch)  # some models fix their batch size


def _trace_once(model: nn.Module, layers: list[Layer], batch: Batch) -> Plan:
    order: dict[str, Layer] = {}
    calls: dict[str, int] = {}
    norm_after: dict[str, str] = {}
    norms: set[str] = set()
    recent: deque[tuple[str, Tensor, int, int]] = deque(maxlen=_RECENT)
    where = Where()
    handles = []

    def enter(layer: Layer) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            where.enter(layer, first_input(args, kwargs))
            order.setdefault(layer.name, layer)
            calls[layer.name] = calls.get(layer.name, 0) + 1

        return hook

    def leave(layer: Layer) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            where.layer = None
            if isinstance(output, Tensor):
                recent.append((layer.name, output, _place(output), output._version))

        return hook

    def norm(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            norms.add(name)
            value = first_input(args, kwargs)
            for source in _sources(value, recent):
                norm_after.setdefault(source, name)

        return hook

    for layer in layers:
        handles.append(layer.module.register_forward_pre_hook(enter(layer), with_kwargs=True))
        handles.append(layer.module.register_forward_hook(leave(layer), prepend=True))
    for name, module in model.named_modules():
        if is_norm(module):
            handles.append(module.register_forward_pre_hook(norm(name), with_kwargs=True))
    try:
        with torch.no_grad(), failing_forward(batch, where):
            returned = model(*batch.args, **batch.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    if not order:
        raise ModelError(
            f"The forward pass of {type(model).__name__} runs none of its {len(layers)} weight layers.",
            remedy="Check that forward() calls the modules themselves.",
        )
    outputs = {name for t in _all_tensors(returned) for name in _sources(t, recent)}
    return Plan(
        list(order.values()),
        [layer for layer in layers if layer.name not in order],
        calls,
        norm_after,
        norms,
        outputs or {next(reversed(order))},
        traced=True,
    )


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _sources(value: Any, recent: deque[tuple[str, Tensor, int, int]]) -> list[str]:
    """Names of the layers whose unmodified output ``value`` is, or is a view of."""
    if not isinstance(value, Tensor):
        return []
    return [n for n, t, place, version in recent if place == _place(value) and t._version == version]


def _all_tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in _all_tensors(v)]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in _all_tensors(v)]
    return []


def select(plan: Plan, model: nn.Module, include: Selection, exclude: Selection) -> list[Layer]:
    """Choose the layers that may be written; every other one gets its reason.

    A text pattern is a glob over qualified names, or the name of a block that holds layers. Frozen layers
    (``requires_grad=False``) and those flagged as already loaded are left alone unless ``include`` names them in
    full. Of tied weights and biases, the first in execution order is the owner.

    Raises:
        UnknownNameError: A pattern matches no layer.
    """
    includes, excludes = _known([*plan.layers, *plan.unreached], include, exclude)
    everything = [*plan.layers, *plan.unreached]
    plan.excluded = {la.name for la in everything} - {la.name for la in named(everything, include, exclude)}
    owners = _owners(model)
    taken: dict[int, str] = {}
    chosen = []
    for layer in plan.layers:
        by_name = layer.name in includes
        reason = _reason_to_leave(layer, includes, excludes, by_name, owners, taken)
        for p in layer.weight_parameters():
            taken.setdefault(id(p), layer.name)
        bias = layer.module.bias
        if bias is not None and taken.setdefault(id(bias), layer.name) != layer.name:
            plan.tied_biases.add(layer.name)
        if reason:
            plan.skip(layer, reason)
            if reason.startswith("frozen"):
                plan.frozen.add(layer.name)
            if reason.startswith("flagged"):
                plan.excluded.add(layer.name)
        else:
            chosen.append(layer)
    return chosen


def named(layers: Sequence[Layer], include: Selection, exclude: Selection) -> list[Layer]:
    """Filter layers by patterns alone, frozen ones included.

    Raises:
        UnknownNameError: A pattern matches no layer.
    """
    includes, excludes = _known(layers, include, exclude)
    wanted = [la for la in layers if not includes or any(_matches(p, la) for p in includes)]
    return [la for la in wanted if not any(_matches(p, la) for p in excludes)]


def _known(layers: Sequence[Layer], include: Selection, exclude: Selection) -> tuple[list[Pattern], list[Pattern]]:
    """List the patterns, each of which must match a layer."""
    includes, excludes = _patterns(include), _patterns(exclude)
    for pattern in [*includes, *excludes]:
        if not any(_matches(pattern, layer) for layer in layers):
            name = getattr(pattern, "__name__", str(pattern))
            raise unknown("layer that matches", name, [la.name for la in layers])
    return includes, excludes


def _reason_to_leave(
    layer: Layer,
    includes: list[Pattern],
    excludes: list[Pattern],
    by_name: bool,
    owners: dict[int, list[tuple[str, nn.Module]]],
    taken: dict[int, str],
) -> str:
    if includes and not any(_matches(p, layer) for p in includes):
        return "not included"
    if any(_matches(p, layer) for p in excludes):
        return "excluded"
    params = layer.weight_parameters()
    if not by_name:
        if not all(p.requires_grad for p in params):
            return "frozen (requires_grad=False)"
        if any(getattr(p, flag, False) for p in params for flag in _KEEP_FLAGS):
            return "flagged as already loaded"
    for p in params:
        if id(p) in taken:
            return f"tied to '{taken[id(p)]}', which runs first"
        for name, module in owners.get(id(p), []):
            if not isinstance(module, LAYERS):
                return f"tied to '{name}' ({type(module).__name__})"
    return ""


def _owners(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        if "parametrizations" in name.split("."):
            continue
        for p in module._parameters.values():
            if p is not None:
                owners.setdefault(id(p), []).append((name, module))
    return owners


def _patterns(selection: Selection) -> list[Pattern]:
    if selection is None:
        return []
    if isinstance(selection, (str, type)) or callable(selection):
        return [selection]
    patterns = list(selection) if isinstance(selection, Sequence) else []
    if not patterns or not all(isinstance(p, (str, type)) or callable(p) for p in patterns):
        raise HeadstartError(
            f"{selection!r} does not select layers.",
            remedy="Pass a name, a glob, a module type, a predicate (name, module) -> bool, or a list of those.",
        )
    return patterns


def _matches(pattern: Pattern, layer: Layer) -> bool:
    if isinstance(pattern, str):
        return fnmatch.fnmatchcase(layer.name, pattern) or layer.name.startswith(pattern + ".")
    if isinstance(pattern, type):
        return isinstance(layer.module, pattern)
    return bool(pattern(layer.name, layer.module))
