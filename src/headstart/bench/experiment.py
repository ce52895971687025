"""Experiments: task × model × arms × seeds, run by an executor and resumed from the store."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from headstart import rng
from headstart.bench import hardware
from headstart.bench.arms import Arm, check_labels, check_starts
from headstart.bench.autotune import tune
from headstart.bench.batches import DeviceTask
from headstart.bench.budget import settle
from headstart.bench.claims import Claims
from headstart.bench.executors.base import Executor, Working
from headstart.bench.executors.in_process import InProcess
from headstart.bench.models import check_outputs, parameter_count, resolve_model
from headstart.bench.store import EXPERIMENT, Damage, Decide, Record, Store, content_key
from headstart.bench.tasks import load_task
from headstart.bench.timing import measured
from headstart.bench.training import Training
from headstart.bench.trial import Ground
from headstart.errors import HeadstartError

AUTO = "auto"
_POLL = 0.5  # seconds between looks at the trials that other drivers work on


@dataclass(frozen=True)
class Trial:
    """One cell of an experiment.

    Args:
        arm: How it starts.
        seed: Its seed.
        determinants: All that determines it.
        key: Their hash, which names its file.
    """

    arm: Arm
    seed: int
    determinants: dict[str, Any]
    key: str


@dataclass(frozen=True)
class Experiment:
    """A comparison of starts.

    Args:
        arms: Each way to start; the first is the baseline that all are compared with.
        seeds: One trial per arm and seed; arms are compared within a seed.
        task: A task's name.
        model: A model's name.
        training: How each trial trains. What ``auto`` names is resolved when the ground is prepared.
        split_seed: Names the draw of the task's splits, the same in all trials.
        margin: The smallest difference in test accuracy that matters, in points.
        alpha: The level of the tests.
        auto: Which fields of ``training`` to choose by the machine: the device by what is there, precision and
            memory format by timing training steps.
        stopping: The rule by which the number of seeds was chosen, for the report; empty if it was fixed.
        looks: How often the results may be looked at before the number of seeds is settled.
        test: Whether trials look at the test split at their end. Without, they are given no test images.
        selection: How a search chose the arms' configurations, for the report; empty if there was none.

    Example:
        >>> Experiment((Arm("default"), Arm("null", weights_draw=1)), seeds=(0, 1, 2)).size
        6
    """

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...] = tuple(range(8))
    task: str = "mnist5k"
    model: str = "headstart:prewarm-cnn"
    training: Training = field(default_factory=Training)
    split_seed: int = 0
    margin: float = 0.5
    alpha: float = 0.05
    auto: tuple[str, ...] = ("device", "precision", "memory_format")
    stopping: str = ""
    looks: int = 1
    test: bool = True
    selection: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_labels(self.arms)
        if not self.arms or not self.seeds:
            raise HeadstartError("An experiment needs at least one arm and one seed.")
        if len(set(self.seeds)) != len(self.seeds):
            raise HeadstartError(f"Seeds {list(self.seeds)} repeat one.", remedy="A repeated seed is the same trial.")

    @property
    def size(self) -> int:
        """Number of arms times that of seeds; arms may share trials."""
        return len(self.arms) * len(self.seeds)

    def ground(self, decide: Decide = measured) -> Ground:
        """Load the task, find the model, and resolve what the machine decides on how all trials train.

        Args:
            decide: As for :meth:`prepare`.

        Returns:
            The ground without arms, which serves all experiments that differ in arms, seeds and ``test`` alone.

        Raises:
            HeadstartError: If the task, the model or the device cannot be had.
        """
        check_starts(self.arms)
        device = hardware.choose_device(AUTO if "device" in self.auto else self.training.device)
        builder = resolve_model(self.model)
        task = load_task(self.task, self.split_seed)
        training = replace(self.training, device=device).resolve(len(task.train))
        data = DeviceTask(task, device, training.memory_format, training.normalization, training.test_normalization)
        check_outputs(builder, next(data.batches(data.validation, 2))[0], task.classes)
        return tune(Ground(data, task.fingerprint(), builder, training), self.auto, decide)

    def prepare(self, decide: Decide = measured, ground: Ground | None = None) -> Ground:
        """Resolve all that the machine decides.

        Args:
            decide: Is asked what to measure; a store's `Store.decide` keeps the answers. By default they are
                kept as long as this process lives.
            ground: From :meth:`ground`, if it is at hand.

        Returns:
            What the trials share.

        Raises:
            HeadstartError: If the task, the model or the device cannot be had.
        """
        check_starts(self.arms)
        ground = ground or self.ground(decide)
        if not self.test:
            ground = replace(ground, data=ground.data.without_test(), test=False)
        return settle(ground, self.arms, decide)

    def trials(self, ground: Ground) -> list[Trial]:
        """List every arm's trials, all arms of a seed before the next seed, so that what is done is paired.

        A control that is what another arm is has that arm's trials: the same keys.
        """
        cells = [(arm, seed, ground.determinants(arm, seed)) for seed in self.seeds for arm in ground.arms]
        return [Trial(arm, seed, what, content_key(what)) for arm, seed, what in cells]


def distinct(trials: Iterable[Trial]) -> list[Trial]:
    """Leave out trials that an earlier arm has too."""
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(trial.key, trial)
    return list(first.values())


class Progress(Protocol):
    """What a run tells while it goes on."""

    def begin(self, total: int, kept: int) -> None:
        """Say how many trials there are and how many of them were already done."""

    def working(self, trials: Sequence[Working]) -> None:
        """Say which trials are at work, all of them, and how far."""

    def end(self, result: dict[str, Any]) -> None:
        """Say that the trial ended, and with what."""


class Silent:
    """Progress that says nothing."""

    def begin(self, total: int, kept: int) -> None:
        """Do nothing."""

    def working(self, trials: Sequence[Working]) -> None:
        """Do nothing."""

    def end(self, result: dict[str, Any]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Args:
        ran: Trials that were run.
        kept: Trials that had been finished before.
        redone: Files that could not be trusted; those that belong to the experiment were run again.
        seconds: Wall time.
        elsewhere: Trials that another driver on the same store finished meanwhile.
    """

    ran: int
    kept: int
    redone: tuple[Damage, ...]
    seconds: float
    elsewhere: int = 0


def run(
    experiment: Experiment,
    store: Store,
    progress: Progress | None = None,
    command: Sequence[str] = (),
    executor: Executor | None = None,
    ground: Ground | None = None,
) -> Summary:
    """Run the trials that the store does not hold yet.

    Killed at any point, the next run goes on with the trials that are not finished. Several drivers, also on
    several machines, may share a store: they share the work, and each returns when all trials are finished.

    Args:
        experiment: What to compare.
        store: Where finished trials are and go.
        progress: Is told what happens.
        command: The command line, for the report.
        executor: Where trials run; one after the other in this process by default. It is closed afterwards.
        ground: From `Experiment.ground`, if it is at hand.

    Returns:
        What was run and what was kept.

    Raises:
        HeadstartError: If the task, the model, the store or the executor cannot serve. A method that refuses
            the model does not raise: its arm says so.
    """
    started = time.perf_counter()
    progress = progress or Silent()
    executor = executor or InProcess()
    ground = experiment.prepare(store.decide, ground)
    cells = experiment.trials(ground)
    trials = distinct(cells)
    damaged = tuple(store.damaged())
    before = store.present(trial.key for trial in trials)
    pending = [trial for trial in trials if trial.key not in before or before[trial.key].refused]
    kept, ran, elsewhere = len(trials) - len(pending), 0, 0
    provenance = {
        **hardware.provenance(ground.training.device),
        "threads": executor.threads(),
        "data": ground.fingerprint,
        "command": list(command),
    }
    store.write_experiment(_plan(experiment, ground, cells, provenance))
    progress.begin(len(trials), kept)
    refused = {trial.key: before[trial.key] for trial in pending if trial.key in before}
    with Claims(store.claims) as claims, contextlib.closing(executor):
        while pending:
            taken: list[Trial] = []
            ours = _claimed(pending, taken, claims, store, refused)
            with contextlib.closing(executor.execute(experiment, ground, ours, progress)) as running:
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


def _claimed(
    pending: Sequence[Trial], taken: list[Trial], claims: Claims, store: Store, refused: Mapping[str, Record]
) -> Iterator[Trial]:
    """Claim trials one by one, as they are asked for; those that another driver works on or finished are put aside."""
    for trial in pending:
        if not claims.take(trial.key):
            taken.append(trial)
        elif _settled(trial, store, refused):
            claims.release(trial.key)
            taken.append(trial)
        else:
            yield trial


def _settled(trial: Trial, store: Store, refused: Mapping[str, Record]) -> Record | None:
    """Return the trial's record if it is there and need not be run again."""
    record = store.get(trial.key)
    return None if record == refused.get(trial.key) else record


def _plan(
    experiment: Experiment, ground: Ground, trials: Sequence[Trial], provenance: dict[str, Any]
) -> dict[str, Any]:
    """Describe the experiment so that its report can be made from the folder alone."""
    task = ground.data.task
    with rng.untouched():
        model = ground.builder(task.channels, task.classes, task.image_size)
    return {
        "format": EXPERIMENT,
        "task": {
            "name": experiment.task,
            "description": task.describe(),
            "classes": task.classes,
            "split_seed": experiment.split_seed,
            "test_images": len(task.test),
        },
        "model": {"name": experiment.model, "parameters": parameter_count(model)},
        "arms": [{**asdict(arm), "methods": [repr(method) for method in arm.methods()]} for arm in ground.arms],
        "seeds": list(experiment.seeds),
        "training": asdict(ground.training),
        "margin": experiment.margin,
        "alpha": experiment.alpha,
        "stopping": experiment.stopping,
        "looks": experiment.looks,
        "test": experiment.test,
        "selection": experiment.selection,
        "decided": ground.decided,
        "trials": [{"arm": trial.arm.label, "seed": trial.seed, "key": trial.key} for trial in trials],
        "provenance": provenance,
    }
