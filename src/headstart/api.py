"""The calls: initialize, compute, apply."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from headstart import rng
from headstart.engine import registry
from headstart.engine.left_alone import all_zero, require_other_than_zeros
from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.selecting import selected
from headstart.engine.walk import walk
from headstart.errors import DataError, HeadstartError, WriteError, one_error
from headstart.model import guard, inputs, shards
from headstart.model.behaviour import study_behaviour
from headstart.model.coverage import unseen
from headstart.model.forward import full_precision
from headstart.model.inputs import Batch, GetInputs, Mask
from headstart.model.lazy import give_shapes
from headstart.model.report_builder import ReportBuilder
from headstart.model.selection import Selection, select
from headstart.model.sparse import MEMORY_LIMIT
from headstart.model.trace import ModelTrace, trace_model
from headstart.model.transaction import Transaction
from headstart.model.unwritten import unwritten, warning
from headstart.model.weights import Layer, store
from headstart.results.report import Init, Report, Row
from headstart.version import __version__

MethodLike = str | Method | type[Method] | Sequence[str | Method]


def initialize(
    model: nn.Module,
    data: Any = None,
    method: MethodLike = "auto",
    *,
    seed: int | torch.Generator = 0,
    include: Selection = None,
    exclude: Selection = None,
    samples: int | None = None,
    batch_size: int | None = None,
    get_inputs: GetInputs | None = None,
    mask: Mask = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Report:
    """Initialize a model in place from its data, or raise and leave it bit for bit as it was.

    Args:
        model: An eager module; its parameters keep identity, dtype, device and memory format.
        data: A tensor, ``(inputs, targets)``, a dict, an iterable of those, a ``DataLoader`` or a ``Dataset``;
            None for methods that need none. See ``headstart.model.inputs.load``.
        method: A name (``"prewarm"``, ``"prewarm:fraction=0.25"``, ``"prewarm:paper"``), a configured method,
            or a list of those, applied in this order at every layer.
        seed: A number, or a generator (advanced by one draw). Every layer draws from its own stream.
        include: Only these layers: name globs or block names, module types, ``(name, module) -> bool``.
        exclude: Not these layers.
        samples: How many samples to use. By default: the tensor (up to 1,024), the loader's first batch, or 256
            of a dataset.
        batch_size: Run at most this many at a time, if all do not fit into memory. The statistics are still
            those of all samples; fills see the first batch. Costs about half as many passes as there are layers.
        get_inputs: ``batch -> tensor | tuple | dict``, for data of any other form.
        mask: Which positions count in all statistics; the rest is padding. A key of the batch, a function of it,
            or a tensor beside data that are tensors. Attention masks, padding masks and lengths are recognized by name;
            False ignores them. See ``headstart.model.inputs.load``.
        memory_limit: MB (2**20 bytes) that a sparse tensor of the samples may take once it is dense.

    Returns:
        A report: one row per layer, findings in plain words.

    Raises:
        HeadstartError: Says what failed, where, and what to do. The model is then unchanged.

    Cost: one forward pass of two samples, then one of the batch, which ends after the last layer that the method
    writes. One more of the batch where two samples do not reach all layers. Memory for one more copy of the model.

    Example:
        >>> import torch, headstart as hs
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
        >>> report = hs.initialize(model, torch.randn(32, 1, 12, 12), "within-layer", seed=0)
        >>> report.changed
        ['0', '2']
        >>> round(report.row("2").output_std, 3)
        1.0
    """
    call = _Call(data, method, seed, include, exclude, samples, batch_size, get_inputs, mask, memory_limit)
    init = _run(model, call, keep=True)
    assert init.report is not None
    return init.report


def compute(
    model: nn.Module,
    data: Any = None,
    method: MethodLike = "auto",
    *,
    seed: int | torch.Generator = 0,
    include: Selection = None,
    exclude: Selection = None,
    samples: int | None = None,
    batch_size: int | None = None,
    get_inputs: GetInputs | None = None,
    mask: Mask = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Init:
    """Compute an initialization and leave the model untouched.

    Takes the arguments of :func:`initialize`.

    Returns:
        The new values by ``state_dict`` name, with provenance and report: save it, load it elsewhere, and
        :func:`apply` it.

    Raises:
        HeadstartError: As :func:`initialize`.

    Example:
        >>> import torch, headstart as hs
        >>> model = torch.nn.Linear(4, 2)
        >>> init = hs.compute(model, method="orthogonal", seed=0)
        >>> sorted(init.tensors)
        ['bias', 'weight']
        >>> hs.apply(model, init).changed
        ['']
    """
    call = _Call(data, method, seed, include, exclude, samples, batch_size, get_inputs, mask, memory_limit)
    return _run(model, call, keep=False)


@one_error("hs.apply stopped at an error")
def apply(model: nn.Module, init: Init) -> Report:
    """Write a computed initialization into a model.

    Args:
        model: It must have every parameter that ``init`` names, in the same shape. It may be sharded over processes by
            ``fully_shard`` (FSDP2) or DTensors. Then every process makes this call with the same ``init``; each writes
            its own part. Nothing is sent.
        init: From :func:`compute` or ``Init.load``, of an unsharded copy.

    Returns:
        A report of what was written.

    Raises:
        HeadstartError: A name or shape does not fit. The model is then unchanged.
    """
    if not isinstance(init, Init):
        raise HeadstartError(
            f"{init!r} is not an initialization.", remedy="Pass what hs.compute returned, or hs.Init.load(path)."
        )
    model = guard.unwrap(model)
    guard.check(model, sharded=True)
    shards.reshard(model)
    if guard.is_lazy(model):
        raise HeadstartError("The model has lazy modules without shapes.", remedy="Run one batch through it first.")
    own = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    missing = sorted(set(init.tensors) - set(own))
    if missing:
        raise HeadstartError(
            f"The model has no parameter {', '.join(map(repr, missing[:5]))}"
            f" ({len(missing)} of {len(init.tensors)} missing).",
            remedy="Apply it to the architecture it was computed for, before wrapping or renaming.",
        )
    for name, value in init.tensors.items():
        if own[name].shape != value.shape:
            raise HeadstartError(
                f"Parameter '{name}' has shape {tuple(own[name].shape)}, the initialization {tuple(value.shape)}.",
                remedy="Apply it to the architecture it was computed for.",
            )
        if not torch.isfinite(value).all():
            raise HeadstartError(f"The initialization of '{name}' holds values that are not finite.")
    store(model, {name: _placed(name, own[name], value) for name, value in init.tensors.items()})
    if init.report is not None:
        return init.report
    names = {
        n.rsplit(".parametrizations", 1)[0] if ".parametrizations" in n else n.rpartition(".")[0] for n in init.tensors
    }
    modules = dict(model.named_modules())
    rows = [Row(n, type(modules[n]).__name__, (), "written") for n in sorted(names)]
    return Report("applied", list(init.provenance.get("methods", [])), rows, seed=int(init.provenance.get("seed", 0)))


def _placed(name: str, target: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The tensors that this process writes, with their new values."""
    if not shards.is_sharded(target):
        return target, value
    if not torch.isfinite(value.to(target.dtype)).all():  # of all parts, so that all processes say the same
        raise WriteError(f"The values of '{name}' do not fit into {target.dtype}.", remedy="Use a wider precision.")
    return shards.own_part(target, value)


@dataclass(frozen=True)
class _Call:
    """What the caller asked for; see :func:`initialize`."""

    data: Any
    method: MethodLike
    seed: int | torch.Generator
    include: Selection
    exclude: Selection
    samples: int | None
    batch_size: int | None
    get_inputs: GetInputs | None
    mask: Mask
    memory_limit: int

    @cached_property
    def methods(self) -> list[Method]:
        """The methods, configured."""
        return registry.resolve(self.method)

    @cached_property
    def number(self) -> int:
        """The seed as a number; a generator moves by one draw."""
        return rng.seed_of(self.seed)

    def batch(self, model: nn.Module) -> Batch | None:
        """Load the calibration batch; None without data."""
        if self.data is None:
            return None
        batch = inputs.load(
            self.data,
            model,
            seed=self.number,
            samples=self.samples,
            get_inputs=self.get_inputs,
            mask=self.mask,
            memory_limit=self.memory_limit,
        )
        if any(m.info.needs_data for m in self.methods):
            inputs.require_variation(batch)
        return batch

    def check(self) -> None:
        """Check what can be checked without the model."""
        needing = [m.info.name for m in self.methods if m.info.needs_data]
        size = self.batch_size
        if size is not None and not (isinstance(size, int) and size > 1):
            raise DataError(f"batch_size={size!r} is not possible.", remedy="Pass a whole number from 2 on, or None.")
        if self.data is None and needing:
            raise DataError(
                f"Method '{needing[0]}' works from data and got none.",
                remedy="Pass a batch, a DataLoader or a Dataset as the second argument.",
            )


@one_error("headstart stopped at an error")
def _run(model: nn.Module, call: _Call, *, keep: bool) -> Init:
    start = time.perf_counter()
    model = guard.unwrap(model)
    guard.check_not_capturing()
    call.check()
    guard.check(model)
    with rng.untouched(call.number), torch.inference_mode(False), torch.no_grad():
        batch = call.batch(model)
        if guard.is_lazy(model):
            return _run_lazy(model, batch, call, keep)
        init = _inside(model, batch, call, keep)
    assert init.report is not None
    init.report.seconds = time.perf_counter() - start
    return init


def _inside(model: nn.Module, batch: Batch | None, call: _Call, keep: bool) -> Init:
    """Run the methods: in place with ``keep``, else return copies of what they wrote, with provenance."""
    start = time.perf_counter()
    with Transaction(model) as transaction, full_precision(model):
        trace = trace_model(model, batch, call.batch_size)
        transaction.rewind()
        if batch is not None and (studied := [layer for m in call.methods for layer in m.studied(trace)]):
            trace = replace(trace, behaviour=study_behaviour(model, batch, trace, studied))
        report = ReportBuilder.of(trace)
        if batch is not None and batch.note:
            report.add_finding(f"Used {batch.note}.")
        for sentence in batch.findings if batch is not None else ():
            report.add_finding(sentence)
        report.add_note(unseen(model, _treated(trace, call.methods)))
        report.add_note(warning(unwritten(model)))
        trace, chosen = select(trace, report, model, call.include, call.exclude)
        if any(m.leaves_zeros for m in call.methods):
            trace = replace(trace, zeros=all_zero(chosen))
        given = call.data, call.get_inputs
        whole = ModelView(model, batch, trace, report, chosen, transaction, call.number, "", *given)
        views = [replace(whole, layers=selected(m, chosen, trace, report), method=m.info.name) for m in call.methods]
        for m, view in zip(call.methods, views, strict=True):
            transaction.rewind()
            with one_error(f"{m.info.name} failed before the walk over the layers"):
                m.start(view)
        transaction.rewind()
        walk(whole, [(m, view.layers) for m, view in zip(call.methods, views, strict=True)], call.batch_size)
        for m, view in zip(call.methods, views, strict=True):
            transaction.rewind()
            with one_error(f"{m.info.name} failed after the walk over the layers"):
                if m.leaves_zeros:
                    require_other_than_zeros(m, view.layers, report)
                m.finish(view)
        names = [m.info.name for m in call.methods]
        built = report.build(trace, names, [m.spelled() for m in call.methods], call.number)
        if keep:
            transaction.commit()
        values = {} if keep else transaction.changed()
    names_by_id = {id(t): n for n, t in [*model.named_parameters(), *model.named_buffers()]}
    tensors = {names_by_id[i]: v for i, v in values.items()}
    built.seconds = time.perf_counter() - start
    return Init(tensors, {} if keep else _provenance(call, batch), built)


def _treated(trace: ModelTrace, methods: Sequence[Method]) -> list[Layer]:
    """The layers that are treated; parts of modules too, if all methods can write them."""
    parts = trace.parts if all(m.writes_parts for m in methods) else ()
    return [*trace.layers, *parts, *trace.unreached]


def _run_lazy(model: nn.Module, batch: Batch | None, call: _Call, keep: bool) -> Init:
    """Give lazy modules their shapes first. They become lazy again if this or a later step fails."""
    if batch is None:
        raise DataError("The model has lazy modules, whose shapes come from data.", remedy="Pass a batch.")
    with Transaction(model) as transaction:
        lazy = [m for m in model.modules() if guard.is_lazy_itself(m)]
        give_shapes(model, batch, call.number)
        init = _inside(model, batch, call, False)
        if keep:
            transaction.mark_shaped(lazy)
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if name in init.tensors:
                    transaction.mark_tensor(tensor)
            apply(model, init)
            transaction.commit()
    return init


def _provenance(call: _Call, batch: Batch | None) -> dict[str, Any]:
    import sklearn

    return {
        "methods": [m.spelled() for m in call.methods],
        "revisions": [m.info.revision for m in call.methods],
        "seed": call.number,
        "include": None if call.include is None else str(call.include),
        "exclude": None if call.exclude is None else str(call.exclude),
        "data": None if batch is None else inputs.fingerprint(batch),
        "versions": {
            "headstart": __version__,
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "machine": f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} threads",
    }
