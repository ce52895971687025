"""The call ``diagnose``: what is wrong with this start? It measures, and changes nothing."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart import rng
from headstart.diagnosis.filter_metrics import filter_metrics
from headstart.diagnosis.health import Diagnosis
from headstart.diagnosis.mends import mended
from headstart.diagnosis.parameters import scales
from headstart.diagnosis.rows import LayerHealth
from headstart.diagnosis.rules import judge
from headstart.diagnosis.scene import look_around
from headstart.errors import HeadstartError, one_error
from headstart.measure.gradients import LossFunction, Passes, forward_backward
from headstart.measure.positions import Positions
from headstart.model import guard, inputs, weights
from headstart.model.coverage import unseen
from headstart.model.forward import full_precision
from headstart.model.inputs import Batch, GetInputs, Mask
from headstart.model.lazy import give_shapes
from headstart.model.parts import Part
from headstart.model.selection import Selection, named
from headstart.model.sparse import MEMORY_LIMIT
from headstart.model.take import cut
from headstart.model.trace import ModelTrace, trace_model
from headstart.model.transaction import Transaction
from headstart.model.weights import Layer, to_canonical
from headstart.numerics.moments import across_sample_std
from headstart.results.report import summarize

SAMPLES = 64  # the backward pass keeps every activation of them


@one_error("hs.diagnose stopped at an error")
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
    mask: Mask = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Diagnosis:
    """Measure every layer of a model on its data and say what is wrong with this start, changing nothing.

    Args:
        model: An eager module. Weights, buffers, flags, gradients, hooks and random states do not change.
        data: As for :func:`headstart.initialize`; None examines the weights only.
        loss_fn: ``loss_fn(outputs, batch) -> scalar``. It gets the whole batch, with targets, on the model's
            device, and gradients are those of this loss. Default: random normal gradients at the outputs, which
            show how the network passes gradients on, whatever the task.
        seed: The seed of the samples and of the gradients at the outputs.
        include: Only these layers in the table: name globs, module types, ``(name, module) -> bool``.
        exclude: Not these layers.
        samples: How many samples to use; default at most 64, because the backward pass keeps all activations.
        get_inputs: ``batch -> tensor | tuple | dict``, for data of any other form.
        mask: Which positions count, as for :func:`headstart.initialize`, also in the gradients.
        memory_limit: MB (2**20 bytes) that a sparse tensor of the samples may take once it is dense.

    Returns:
        One row per weight layer in execution order, and findings in plain words. A finding says what mends it if
            something is known to help.

    Raises:
        HeadstartError: The model or its data cannot be used.

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
        raw, batch = _one_batch(data, model, number, samples, get_inputs, mask, memory_limit)
        lazy = guard.is_lazy(model)
        if lazy and batch is None:
            raise HeadstartError("The model has lazy modules, whose shapes come from data.", remedy="Pass a batch.")
        with Transaction(model) as transaction, full_precision(model):
            if lazy and batch is not None:
                give_shapes(model, batch, number)
                transaction.begin()
            diagnosis = _look(transaction, batch, raw, loss_fn, number, include, exclude)
    diagnosis.seconds = time.perf_counter() - start
    return diagnosis


def _one_batch(
    data: Any,
    model: nn.Module,
    seed: int,
    samples: int | None,
    get_inputs: GetInputs | None,
    mask: Mask,
    memory_limit: int,
) -> tuple[Any, Batch | None]:
    """Take at most ``samples`` samples: raw, with targets, and as the model's inputs."""
    if data is None:
        return None, None
    limit = SAMPLES if samples is None else samples
    raw, note, mask = inputs.take_masked(
        data, mask, seed=seed, samples=samples, most=limit, model=model, memory_limit=memory_limit
    )
    raw, said = cut(raw, limit)
    if isinstance(mask, (Tensor, np.ndarray)):
        mask, _ = cut(mask, limit)
    note = f"{note}, {said.replace(' of ', ' of its ', 1)}" if note and said else note or said
    batch = inputs.as_batch(raw, model, note=note, get_inputs=get_inputs, mask=mask, memory_limit=memory_limit)
    # Cut again, because get_inputs may unpack what could not be counted.
    return raw, replace(batch.head(limit), note=batch.note)


def _look(
    transaction: Transaction,
    batch: Batch | None,
    raw: Any,
    loss_fn: LossFunction | None,
    seed: int,
    include: Selection,
    exclude: Selection,
) -> Diagnosis:
    model = transaction.model
    trace = trace_model(model, batch)
    transaction.rewind()
    reached = sorted([*trace.layers, *trace.parts], key=lambda layer: trace.order.get(layer.name, 0))
    everything = [*reached, *trace.unreached, *trace.unreached_parts]
    shown = {la.name for la in named(everything, include, exclude)}
    samples = batch.size if batch is not None else 0
    diagnosis = Diagnosis(f"headstart: diagnosis of {type(model).__name__}", samples=samples, seed=seed)
    passes = None if batch is None else forward_backward(model, trace, batch, raw, loss_fn, seed)
    diagnosis.rows = [_row(la, trace, passes) for la in everything if la.name in shown]
    if batch is not None and passes is not None:
        _describe_input(diagnosis, batch, trace)
        diagnosis.notes.append(f"Measured on {batch.note or f'{samples} samples'}.")
        diagnosis.notes.extend([*batch.findings, *passes.notes])
        if passes.probe.positions.whole:
            unmasked = ", ".join(passes.probe.positions.whole)
            diagnosis.notes.append(f"All positions count in {unmasked}: their positions are not those of the mask.")
    if sentence := unseen(model, everything):
        diagnosis.notes.append(sentence)
    transaction.rewind()  # what the passes have set off is no part of the start, and its memory may be gone
    scene = look_around(model, trace, batch, passes)
    diagnosis.findings = mended(judge(diagnosis, scene), model, trace, batch is not None)
    return diagnosis


def _describe_input(diagnosis: Diagnosis, batch: Batch, trace: ModelTrace) -> None:
    values = (t for t in batch.tensors if (t.is_floating_point() or t.is_complex()) and t.numel() > 1)
    value = next((t for t in values if t.is_complex() or not bool(torch.isneginf(t).any())), None)
    if value is not None and value.is_complex():
        diagnosis.input_mean, diagnosis.input_std = summarize(value.reshape(len(value), -1))
        diagnosis.input_across_sample_std = _number(across_sample_std(value))
    elif value is not None:
        places = Positions(batch.masks).places(trace.layers[:1], value)
        counting = value if places is None else places.rows(value)[places.counted]
        std, mean = torch.std_mean(counting.double(), correction=0)
        diagnosis.input_mean, diagnosis.input_std = float(mean), float(std)
        across = across_sample_std if places is None else places.across_sample_std
        diagnosis.input_across_sample_std = _number(across(value)) if value.dim() else None


def _row(layer: Layer, trace: ModelTrace, passes: Passes | None) -> LayerHealth:
    weight = weights.read(layer)
    row = LayerHealth(layer.name, type(layer.module).__name__, layer.shape, layer.fan_in, layer.fan_out)
    if bool(torch.isfinite(weight).all()):
        row.weight_std = summarize(weight)[1] if layer.is_complex else float(weight.double().std(correction=0))
        row.gain = row.weight_std * math.sqrt(layer.fan_in)
        gains = [] if isinstance(layer, Part) else scales(layer.module)  # some layers have one as well
        if not all(bool(p.any()) for p in (weight, *gains)):
            row.notes.append("starts at zero")
        elif layer.kernel and not layer.is_complex:
            row.sparsity, row.variance_entropy, row.orthogonality = filter_metrics(weight, layer.groups)
    else:
        row.notes.append("not finite")
    if (n := trace.calls.get(layer.name, 1)) > 1:
        row.notes.append(f"runs {n} times; outputs measured on its first use")
    params = layer.weight_parameters()
    if params and not any(p.requires_grad for p in params):
        row.notes.append("frozen")
    if passes is not None:
        _measured(row, layer, weight, passes)
    return row


def _measured(row: LayerHealth, layer: Layer, weight: Tensor, passes: Passes) -> None:
    signal = passes.probe.signals.get(layer.name)
    if signal is not None:
        row.output_mean, row.output_std, row.across_sample_std = signal.mean, signal.std, _number(signal.across)
        row.never_positive, row.rectified, row.saturated = signal.never_positive, signal.rectified, signal.saturated
    gradient = None if passes.gradients is None else passes.gradients[layer.name]
    if gradient is not None:
        row.gradient_rms = _rms(gradient)
        size = _rms(weight)
        row.gradient_ratio = row.gradient_rms / size if size > 0 else None
        row.rate_variation = _variation(to_canonical(layer, gradient.detach()), layer.groups)
    if signal is None:
        row.notes.append("never called" if gradient is None else _why_no_output(layer))


def _why_no_output(layer: Layer) -> str:
    if layer.sees_input or not isinstance(layer, Part):
        return "used without being called"
    inside = f"inside the {type(layer.host).__name__}: " if layer.inside else ""
    return f"{inside}its output is not measured"


def _variation(gradient: Tensor, groups: int) -> float | None:
    """Coefficient of variation of the gradients' root mean square over input channels; None if all are zero."""
    squares = (
        gradient.abs().double().square().unflatten(0, (groups, -1)).unsqueeze(-1).flatten(3)
    )  # (groups, out, in, taps)
    rates = squares.mean((1, 3)).sqrt().flatten()
    mean = float(rates.mean())
    return float(rates.std(correction=0)) / mean if mean > 0 else None


def _rms(value: Tensor) -> float:
    wide = value.detach().to(torch.complex128 if value.is_complex() else torch.float64)
    return float(torch.linalg.vector_norm(wide)) / math.sqrt(max(1, wide.numel()))


def _number(value: float) -> float | None:
    """None for the NaN that stands for 'a single sample'."""
    return None if math.isnan(value) else value
