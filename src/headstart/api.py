"""The calls: initialize, compute, apply."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from headstart import guard, inputs, registry, rng
from headstart.errors import DataError, HeadstartError
from headstart.inputs import Batch, GetInputs
from headstart.method import Method
from headstart.plan import Plan, Selection, Where, failing_forward, full_precision, make_plan, select
from headstart.report import Init, Report, Row
from headstart.transaction import Transaction
from headstart.walk import walk
from headstart.weights import store
from headstart.whole import Whole

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
) -> Report:
    """Initialize a model in place from its data, or raise and leave it bit for bit as it was.

    Args:
        model: Any eager module; parameters keep identity, dtype, device and memory format.
        data: A tensor, ``(inputs, targets)``, a dict, an iterable of those, a ``DataLoader`` or a ``Dataset``;
            None for methods that need none. See ``headstart.inputs.load``.
        method: A name (``"prewarm"``, ``"prewarm:fraction=0.25"``, ``"prewarm:paper"``), a configured method,
            or a list of those, applied in this order at every layer.
        seed: A number, or a generator (advanced by one draw). Every layer draws from its own stream.
        include: Only these layers: name globs or block names, module types, ``(name, module) -> bool``.
        exclude: Not these layers.
        samples: How many samples to use; default: the tensor (up to 1,024), the loader's first batch, or 256
            of a dataset.
        batch_size: Run at most so many of them at a time, where all do not fit into memory. The statistics are still
            those of all; fills see the first batch. Costs about half as many passes as there are layers.
        get_inputs: ``batch -> tensor | tuple | dict`` for data of any other form.

    Returns:
        A report: one row per layer, findings in plain words.

    Raises:
        HeadstartError: With what failed, where, and what to do. Nothing was changed then.

    Cost: one forward pass of two samples, then one of the batch, ended after the last layer that the method
    writes; the memory of one more copy of the model.

    Example:
        >>> import torch, headstart as hs
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
        >>> report = hs.initialize(model, torch.randn(32, 1, 12, 12), "within-layer", seed=0)
        >>> report.changed
        ['0', '2']
        >>> round(report.row("2").output_std, 3)
        1.0
    """
    init = _run(model, data, method, seed, include, exclude, samples, batch_size, get_inputs, keep=True)
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
    return _run(model, data, method, seed, include, exclude, samples, batch_size, get_inputs, keep=False)


def apply(model: nn.Module, init: Init) -> Report:
    """Write a computed initialization into a model.

    Args:
        model: Must have every parameter that ``init`` names, in the same shape.
        init: From :func:`compute` or ``Init.load``.

    Returns:
        A report of what was written.

    Raises:
        HeadstartError: A name or shape does not fit; nothing was changed then.
    """
    if not isinstance(init, Init):
        raise HeadstartError(
            f"{init!r} is not an initialization.", remedy="Pass what hs.compute returned, or hs.Init.load(path)."
        )
    model = guard.unwrap(model)
    guard.check(model)
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
    store(model, {name: (own[name], value) for name, value in init.tensors.items()})
    if init.report is not None:
        return init.report
    names = {
        n.rsplit(".parametrizations", 1)[0] if ".parametrizations" in n else n.rpartition(".")[0] for n in init.tensors
    }
    modules = dict(model.named_modules())
    rows = [Row(n, type(modules[n]).__name__, (), "written") for n in sorted(names)]
    return Report("applied", list(init.provenance.get("methods", [])), rows, seed=int(init.provenance.get("seed", 0)))


def _run(
    model: nn.Module,
    data: Any,
    method: MethodLike,
    seed: int | torch.Generator,
    include: Selection,
    exclude: Selection,
    samples: int | None,
    batch_size: int | None,
    get_inputs: GetInputs | None,
    *,
    keep: bool,
) -> Init:
    start = time.perf_counter()
    methods = registry.resolve(method)
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size > 1):
        raise DataError(f"batch_size={batch_size!r} is no batch.", remedy="Pass a whole number from 2, or None.")
    model = guard.unwrap(model)
    guard.check(model)
    number = rng.seed_of(seed)
    needing = [m.info.name for m in methods if m.info.needs_data]
    if data is None and needing:
        raise DataError(
            f"Method '{needing[0]}' works from data and got none.",
            remedy="Pass a batch, a DataLoader or a Dataset as the second argument.",
        )
    with rng.untouched(number), torch.inference_mode(False), torch.no_grad():
        batch = None if data is None else inputs.load(data, model, seed=number, samples=samples, get_inputs=get_inputs)
        if batch is not None and needing:
            inputs.require_variation(batch)
        if guard.is_lazy(model):
            return _run_lazy(model, batch, methods, number, include, exclude, batch_size, keep, (data, get_inputs))
        init = _inside(model, batch, methods, number, include, exclude, batch_size, keep, (data, get_inputs))
    assert init.report is not None
    init.report.seconds = time.perf_counter() - start
    return init


def _inside(
    model: nn.Module,
    batch: Batch | None,
    methods: list[Method],
    seed: int,
    include: Selection,
    exclude: Selection,
    batch_size: int | None,
    keep: bool,
    given: tuple[Any, GetInputs | None],
) -> Init:
    """Run the methods; with ``keep`` in place, else as copies of what they wrote, with provenance."""
    start = time.perf_counter()
    with Transaction(model) as transaction, full_precision(model):
        plan = make_plan(model, batch)
        if batch is not None and batch.note:
            plan.find(f"Used {batch.note}.")
        chosen = select(plan, model, include, exclude)
        jobs = [(m, m.select(chosen, plan)) for m in methods]
        wholes = [Whole(model, batch, plan, layers, transaction, seed, m.info.name, *given) for m, layers in jobs]
        for m, whole in zip(methods, wholes, strict=True):
            m.start(whole)
        walk(model, batch, plan, jobs, transaction, seed, batch_size)
        for m, whole in zip(methods, wholes, strict=True):
            m.finish(whole)
        report = _report(plan, methods, seed)
        if keep:
            transaction.commit()
        values = {} if keep else transaction.changed()
    names = {id(t): n for n, t in [*model.named_parameters(), *model.named_buffers()]}
    tensors = {names[i]: v for i, v in values.items()}
    report.seconds = time.perf_counter() - start
    return Init(tensors, {} if keep else _provenance(methods, seed, batch, include, exclude), report)


def _run_lazy(
    model: nn.Module,
    batch: Batch | None,
    methods: list[Method],
    seed: int,
    include: Selection,
    exclude: Selection,
    batch_size: int | None,
    keep: bool,
    given: tuple[Any, GetInputs | None],
) -> Init:
    """Give lazy modules their shapes first; they are lazy again if that, or anything after it, fails."""
    if batch is None:
        raise DataError("The model has lazy modules, whose shapes come from data.", remedy="Pass a batch.")
    with Transaction(model) as transaction:
        lazy = [m for m in model.modules() if guard.is_lazy_itself(m)]
        materialize(model, batch, seed)
        init = _inside(model, batch, methods, seed, include, exclude, batch_size, False, given)
        if keep:
            transaction.mark_shaped(lazy)
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if name in init.tensors:
                    transaction.mark_tensor(tensor)
            apply(model, init)
            transaction.commit()
    return init


def materialize(model: nn.Module, batch: Batch, seed: int) -> None:
    """Give lazy modules their shapes; their default weights come from the call's seed."""
    training = [(m, m.training) for m in model.modules()]
    model.eval()
    small, where = batch.head(2), Where()
    try:
        with (
            rng.untouched(rng.derive(seed, "lazy")),
            torch.no_grad(),
            failing_forward(small, where),
            where.following(model),
        ):
            model(*small.args, **small.kwargs)
    finally:
        for module, flag in training:
            module.training = flag


def _report(plan: Plan, methods: list[Method], seed: int) -> Report:
    rows = [plan.rows[layer.name] for layer in [*plan.layers, *plan.unreached]]
    title = f"headstart: {' + '.join(m.info.name for m in methods)}"
    report = Report(title, [repr(m) for m in methods], rows, seed=seed, filters=plan.filters)
    report.findings = list(plan.findings)
    report.statistics, report.others = list(plan.statistics), list(plan.others)
    if plan.statistics:
        report.findings.append(f"Running statistics moved with the rescale in: {', '.join(plan.statistics)}.")
    if plan.unreached:
        report.findings.append(
            f"{len(plan.unreached)} weight layers are never called by the forward pass and were left alone:"
            f" {', '.join(la.name for la in plan.unreached[:5])}{' …' if len(plan.unreached) > 5 else ''}."
        )
    if not report.changed:
        report.findings.append("No layer was written.")
    return report


def _provenance(
    methods: list[Method], seed: int, batch: Batch | None, include: Selection, exclude: Selection
) -> dict[str, Any]:
    import sklearn

    from headstart import __version__

    return {
        "methods": [repr(m) for m in methods],
        "seed": seed,
        "include": None if include is None else str(include),
        "exclude": None if exclude is None else str(exclude),
        "data": None if batch is None else inputs.fingerprint(batch),
        "versions": {
            "headstart": __version__,
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "machine": f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} threads",
    }
