"""Run the trials of an experiment that its store does not hold yet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from headstart.bench.runs.executors.base import Executor, Progress, Silent
from headstart.bench.runs.executors.in_process import InProcess
from headstart.bench.runs.experiment import AnyExperiment, Trial, distinct
from headstart.bench.store.claims import Claims
from headstart.bench.store.store import EXPERIMENT, Damage, Record, Store
from headstart.bench.trials import hardware
from headstart.bench.trials.context import Context

_POLL = 0.5  # seconds between looks at the trials that other drivers work on


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Args:
        ran: Trials that were run.
        kept: Trials that were finished before.
        redone: Damaged files; trials of the experiment among them were run again.
        seconds: Wall time.
        elsewhere: Trials that another process on the same store finished meanwhile.
    """

    ran: int
    kept: int
    redone: tuple[Damage, ...]
    seconds: float
    elsewhere: int = 0


def run(
    experiment: AnyExperiment[Any],
    store: Store,
    progress: Progress | None = None,
    command: Sequence[str] = (),
    executor: Executor | None = None,
    context: Context | None = None,
) -> Summary:
    """Run the trials that the store does not hold yet.

    If it is killed at any point, the next run continues with the unfinished trials. Several processes, also on
    several machines, may share a store: they share the work, and each returns when all trials are finished.

    Args:
        experiment: What to compare.
        store: The store of finished trials.
        progress: Gets the progress.
        command: The command line, for the report.
        executor: Runs the trials; by default one after the other in this process. It is closed afterwards.
        context: From `Experiment.context`, if it is at hand.

    Returns:
        What was run and what was kept.

    Raises:
        HeadstartError: The task, the model, the store or the executor is not available. A method that refuses
            the model does not raise; its arm says so.
    """
    started = time.perf_counter()
    progress = progress or Silent()
    executor = executor or InProcess()
    context = experiment.prepare(store.measure_once, context)
    cells = experiment.trials(context)
    trials = distinct(cells)
    damaged = tuple(store.damaged())
    before = store.present(trial.key for trial in trials)
    pending = [trial for trial in trials if trial.key not in before or before[trial.key].open]
    kept, ran, elsewhere = len(trials) - len(pending), 0, 0
    provenance = {
        **hardware.provenance(context.device),
        "threads": executor.threads(),
        "data": context.fingerprint,
        "command": list(command),
    }
    plan = _plan(experiment, context, cells, provenance)
    late = named_late(store, plan)
    store.write_experiment({**plan, "looked": looked_before(store, plan), **({"primary_late": True} if late else {})})
    progress.begin(len(trials), kept)
    refused = {trial.key: before[trial.key] for trial in pending if trial.key in before}
    with Claims(store.claims) as claims, contextlib.closing(executor):
        claims.tidy()
        while pending:
            taken: list[Trial] = []
            ours = _claimed(pending, taken, claims, store, refused)
            with contextlib.closing(executor.execute(experiment, context, ours, progress)) as running:
                for trial, result, where in running:
                    store.put(Record(trial.determinants, result, {**provenance, **where}))
                    claims.release(trial.key)
                    ran += 1
                    progress.end(result)
            done = {trial.key: record for trial in taken if (record := _settled(trial, store, refused))}
            for record in done.values():
                elsewhere += 1
                progress.end(dict(record.result))
            if taken and len(taken) == len(pending) and not done:
                time.sleep(_POLL)
            pending = [trial for trial in taken if trial.key not in done]
    return Summary(ran, kept, damaged, time.perf_counter() - started, elsewhere)


def looked_before(store: Store, plan: Mapping[str, Any]) -> list[int]:
    """List the numbers of seeds at which results could be seen before more seeds were added by hand.

    Looks that a rule planned in advance do not count.

    Args:
        store: The store, which may hold an earlier version of the experiment.
        plan: The experiment, as it will be stored.
    """
    if not store.begun:
        return []
    old = store.read_experiment()
    before: list[int] = list(old.get("looked", ()))
    arms, had = ({(a["label"], *a["methods"]) for a in each["arms"][1:] if not a["control"]} for each in (plan, old))
    if not arms & had or not set(old["seeds"]) < set(plan["seeds"]):
        return before
    if plan.get("stopping") and plan.get("stopping") == old.get("stopping"):
        return before
    keys = {cell["key"] for cell in old["trials"]}
    return [*before, len(old["seeds"])] if len(store.present(keys)) == len(keys) else before


def named_late(store: Store, plan: Mapping[str, Any]) -> bool:
    """Tell whether the question was named, or changed, when results could already be seen.

    Args:
        store: The store, which may hold an earlier version of the experiment.
        plan: The experiment, as it will be stored.
    """
    if not plan.get("primary") or not store.begun:
        return False
    old = store.read_experiment()
    if plan["primary"] == old.get("primary"):
        return bool(old.get("primary_late"))
    return bool(store.present({cell["key"] for cell in old["trials"]}))


def _claimed(
    pending: Sequence[Trial], taken: list[Trial], claims: Claims, store: Store, refused: Mapping[str, Record]
) -> Iterator[Trial]:
    """Claim trials one by one, when they are drawn; put aside those that another process works on or has finished."""
    for trial in pending:
        if not claims.take(trial.key):
            taken.append(trial)
        elif _settled(trial, store, refused):
            claims.release(trial.key)
            taken.append(trial)
        else:
            yield trial


def _settled(trial: Trial, store: Store, refused: Mapping[str, Record]) -> Record | None:
    """Return the trial's record if it exists and need not be run again."""
    record = store.get(trial.key)
    return None if record == refused.get(trial.key) else record


def _plan(
    experiment: AnyExperiment[Any], context: Context, trials: Sequence[Trial], provenance: dict[str, Any]
) -> dict[str, Any]:
    """Describe the experiment so that its report can be made from the folder alone."""
    return {
        "format": EXPERIMENT,
        **experiment.describe(context),
        "arms": [{**asdict(arm), "methods": [method.spelled() for method in arm.methods()]} for arm in context.arms],
        "seeds": list(experiment.seeds),
        "margin": experiment.margin,
        "alpha": experiment.alpha,
        "decided": context.decided,
        "trials": [{"arm": trial.arm.label, "seed": trial.seed, "key": trial.key} for trial in trials],
        "provenance": provenance,
    }
