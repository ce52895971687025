"""diagnose: what is wrong with this start? Looks, and changes nothing."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils.data import Dataset, IterableDataset

from headstart import guard, inputs, rng, weights
from headstart.api import full_precision, materialize
from headstart.errors import HeadstartError
from headstart.filter_metrics import filter_metrics
from headstart.findings import Scene, judge
from headstart.health import Diagnosis, LayerHealth
from headstart.inputs import Batch, GetInputs
from headstart.moments import across_sample_std
from headstart.norms import as_in_training
from headstart.parameters import scales
from headstart.plan import Plan, Selection, Where, failing_forward, make_plan, named
from headstart.probe import Probe, weight_gradients
from headstart.transaction import Transaction
from headstart.weights import Layer

SAMPLES = 64  # the backward pass keeps every activation of them
LossFunction = Callable[[Any, Any], Tensor]


def diagnose(
    model: nn.Module,
    data: Any = None,
    *,
    loss_fn: LossFunction | None = None,
    seed: int | torch.Generator = 0,
    include: Selection = None,
    exclude: Selection = None,
    samples: int | None = None,
    get_inputs: GetInputs | None = None,
) -> Diagnosis:
    """Measure every layer of a model on its data and say what is wrong with this start, changing nothing.

    Args:
        model: Any eager module. Weights, buffers, flags, gradients, hooks and random states stay as they are.
        data: As for :func:`headstart.initialize`; None looks at the weights alone.
        loss_fn: ``loss_fn(outputs, batch) -> scalar``, with the whole batch, targets included, on the model's
            device: gradients are those of this loss. Default: random normal gradients at the outputs, which
            show how the network passes gradients on, whatever the task.
        seed: Names the draw of samples and of the gradients at the outputs.
        include: Only these layers in the table: name globs, module types, ``(name, module) -> bool``.
        exclude: Not these layers.
        samples: How many samples to use; default at most 64, because the backward pass keeps all activations.
        get_inputs: ``batch -> tensor | tuple | dict`` for data of any other form.

    Returns:
        One row per weight layer in execution order, and findings in plain words, each with what mends it.

    Raises:
        HeadstartError: The model or its data cannot be used; nothing was changed then either.

    Cost: one forward and one backward pass; the memory of two more copies of the model and of one batch's
    activations.

    Example:
        >>> import torch, headstart as hs
        >>> blocks = [[torch.nn.Linear(32, 32), torch.nn.ReLU()] for _ in range(20)]
        >>> deep = torch.nn.Sequential(*(m for block in blocks for m in block))
        >>> x = torch.randn(64, 32)
        >>> diagnosis = hs.diagnose(deep, x)
        >>> [f.kind for f in diagnosis.found("signals lost")]
        ['signals lost']
        >>> _ = hs.initialize(deep, x, "within-layer")
        >>> hs.diagnose(deep, x).findings
        []
    """
    start = time.perf_counter()
    model = guard.unwrap(model)
    guard.check(model)
    number = rng.seed_of(seed)
    with rng.untouched(number), torch.inference_mode(False):
        raw, batch = _one_batch(data, model, number, samples, get_inputs)
        if guard.is_lazy(model):
            if batch is None:
                raise HeadstartError("The model has lazy modules, whose shapes come from data.", remedy="Pass a batch.")
            model = copy.deepcopy(model)
            materialize(model, batch, number)
        with Transaction(model), full_precision(model):
            diagnosis = _look(model, batch, raw, loss_fn, number, include, exclude)
    diagnosis.seconds = time.perf_counter() - start
    return diagnosis


def _one_batch(
    data: Any, model: nn.Module, seed: int, samples: int | None, get_inputs: GetInputs | None
) -> tuple[Any, Batch | None]:
    """Take at most ``samples`` samples: raw, with targets, and as the model's inputs."""
    if data is None:
        return None, None
    limit = SAMPLES if samples is None else samples
    countable = isinstance(data, (Tensor, Mapping, tuple)) or hasattr(data, "__array__")
    indexed = isinstance(data, Dataset) and not isinstance(data, IterableDataset)
    ask = limit if countable or indexed or samples is not None else None
    raw, note = inputs.take(data, seed=seed, samples=ask)
    size = Batch((raw,)).size
    if size > limit:
        raw = inputs.map_tensors(raw, lambda t: t[:limit] if t.dim() and len(t) == size else t)
        note = f"{note}, {limit} of its {size} samples" if note else f"{limit} of {size} samples"
    batch = inputs.as_batch(raw, model, note=note, get_inputs=get_inputs)
    return raw, batch.head(limit)  # get_inputs may unpack what could not be counted


@dataclass
class _Passes:
    """What the forward and backward pass showed."""

    probe: Probe
    gradients: dict[str, Tensor | None] | None = None
    notes: list[str] = field(default_factory=list)


def _look(
    model: nn.Module,
    batch: Batch | None,
    raw: Any,
    loss_fn: LossFunction | None,
    seed: int,
    include: Selection,
    exclude: Selection,
) -> Diagnosis:
    plan = make_plan(model, batch)
    everything = [*plan.layers, *plan.unreached]
    shown = {la.name for la in named(everything, include, exclude)}
    samples = batch.size if batch is not None else 0
    diagnosis = Diagnosis(f"headstart: diagnosis of {type(model).__name__}", samples=samples, seed=seed)
    passes = None if batch is None else _passes(model, plan, batch, raw, loss_fn, seed)
    diagnosis.rows = [_row(la, plan, passes) for la in everything if la.name in shown]
    if batch is not None and passes is not None:
        _describe_input(diagnosis, batch)
        diagnosis.notes.append(f"Measured on {batch.note or f'{samples} samples'}.")
        diagnosis.notes.extend(passes.notes)
    names = {name for name, norm in plan.norm_after.items() if isinstance(model.get_submodule(norm), _BatchNorm)}
    scene = Scene(
        model,
        batch_normed=names,
        normed=set(plan.norm_after),
        unreached={la.name for la in plan.unreached},
        gradients_measured=passes is not None and passes.gradients is not None,
        values={} if passes is None else {n: s.values for n, s in passes.probe.signals.items()},
    )
    diagnosis.findings = judge(diagnosis, scene)
    return diagnosis


def _passes(model: nn.Module, plan: Plan, batch: Batch, raw: Any, loss_fn: LossFunction | None, seed: int) -> _Passes:
    where = Where()
    probe = Probe(plan.layers, where)
    # Stand-ins for the parameters: gradients without touching requires_grad flags or the user's gradient hooks.
    stand_ins = {
        n: p.detach().clone().requires_grad_(p.is_floating_point() or p.is_complex())
        for n, p in model.named_parameters()
    }
    own = {id(p): stand_ins[n] for n, p in model.named_parameters()}
    passes = _Passes(probe)
    with ExitStack() as stack:
        if batch.size > 1:  # one sample has no batch statistics
            stack.enter_context(as_in_training(model))
        stack.enter_context(parametrize.cached())  # one weight per layer, so that its gradient can be asked for
        stack.enter_context(torch.enable_grad())
        fresh = batch.head(batch.size)  # a model may write into its input
        with probe.hooked(model), failing_forward(batch, where), probe:
            returned = torch.func.functional_call(model, stand_ins, fresh.args, fresh.kwargs)
        try:
            top, top_gradients = _top(returned, raw, loss_fn, batch, model, seed)
            if top:
                passes.gradients = weight_gradients(top, top_gradients, plan, probe, own)
            else:
                passes.notes.append("Gradients were not measured: the model's output does not depend on its weights.")
        except RuntimeError as error:
            if isinstance(error, HeadstartError):
                raise
            reason = " ".join(str(error).split())
            passes.notes.append(f"Gradients could not be measured: {type(error).__name__}: {reason}")
    return passes


def _top(
    returned: Any, raw: Any, loss_fn: LossFunction | None, batch: Batch, model: nn.Module, seed: int
) -> tuple[list[Tensor], list[Tensor] | None]:
    """What to differentiate, and with which gradients at the top."""
    if loss_fn is None:
        outputs = [t for t in Batch((returned,)).tensors if t.requires_grad and t.is_floating_point()]
        drawn = [
            torch.randn(t.shape, generator=rng.generator(seed, "top gradient", str(i))).to(t) / max(1, batch.size)
            for i, t in enumerate(outputs)
        ]
        return outputs, drawn
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        loss = loss_fn(returned, inputs.map_tensors(raw, lambda t: t.to(device)))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise HeadstartError(
            f"loss_fn failed: {type(error).__name__}: {reason}.",
            remedy="It gets the model's outputs and the whole batch, and returns a scalar.",
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise HeadstartError(f"loss_fn returned {what}.", remedy="Return a scalar tensor, such as the mean loss.")
    return ([loss], None) if loss.requires_grad else ([], None)


def _describe_input(diagnosis: Diagnosis, batch: Batch) -> None:
    value = next((t for t in batch.tensors if t.is_floating_point() and t.numel() > 1), None)
    if value is not None:
        std, mean = torch.std_mean(value.double(), correction=0)
        diagnosis.input_mean, diagnosis.input_std = float(mean), float(std)
        diagnosis.input_across_sample_std = _number(across_sample_std(value)) if value.dim() else None


def _row(layer: Layer, plan: Plan, passes: _Passes | None) -> LayerHealth:
    weight = weights.read(layer)
    row = LayerHealth(layer.name, type(layer.module).__name__, layer.shape, layer.fan_in, layer.fan_out)
    if bool(torch.isfinite(weight).all()):
        row.weight_std = float(weight.double().std(correction=0))
        row.gain = row.weight_std * math.sqrt(layer.fan_in)
        if not all(bool(p.any()) for p in (weight, *scales(layer.module))):  # some layers have a gain as well
            row.notes.append("starts at zero")
        elif layer.kernel:
            row.sparsity, row.variance_entropy, row.orthogonality = filter_metrics(weight, layer.groups)
    else:
        row.notes.append("not finite")
    if (n := plan.calls.get(layer.name, 1)) > 1:
        row.notes.append(f"runs {n} times; outputs measured on its first use")
    params = layer.weight_parameters()
    if params and not any(p.requires_grad for p in params):
        row.notes.append("frozen")
    if passes is not None:
        _measured(row, layer, weight, passes)
    return row


def _measured(row: LayerHealth, layer: Layer, weight: Tensor, passes: _Passes) -> None:
    signal = passes.probe.signals.get(layer.name)
    if signal is not None:
        row.output_mean, row.output_std, row.across_sample_std = signal.mean, signal.std, _number(signal.across)
        row.never_positive, row.rectified = signal.never_positive, signal.rectified
    gradient = None if passes.gradients is None else passes.gradients[layer.name]
    if gradient is not None:
        row.gradient_rms = _rms(gradient)
        size = _rms(weight)
        row.gradient_ratio = row.gradient_rms / size if size > 0 else None
    if signal is None:
        row.notes.append("never called" if gradient is None else "used without being called")


def _rms(value: Tensor) -> float:
    wide = value.detach().double()
    return float(torch.linalg.vector_norm(wide)) / math.sqrt(max(1, wide.numel()))


def _number(value: float) -> float | None:
    """None for the NaN that stands for 'a single sample'."""
    return None if math.isnan(value) else value
