"""What a run would do and cost, estimated from stored trials or from a few timed steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from headstart.bench.runs.experiment import Experiment, Trial
from headstart.bench.runs.search import Search, folder_of, rest_of, results_of
from headstart.bench.store.store import Record, Store
from headstart.bench.trials.timing import Clock
from headstart.bench.trials.trial import TrialContext
from headstart.errors import HeadstartError

STORED, MEASURED = "stored trials", "timed steps"


@dataclass(frozen=True)
class ArmForecast:
    """The remaining work for one arm.

    Args:
        label: The arm's name.
        done: Seeds that are finished.
        to_do: Seeds that would be run.
        init_seconds: Seconds of its start, per trial.
        trial_seconds: Seconds of a whole trial: start, training, evaluations.
        source: The source of the times: stored trials or timed steps; empty if nothing is left to do.
        refusal: Why the method would refuse the model, or an empty string.
        shared: The earlier arm that shares these trials, so that they cost nothing; empty if they are its own.
    """

    label: str
    done: tuple[int, ...]
    to_do: tuple[int, ...]
    init_seconds: float = 0.0
    trial_seconds: float = 0.0
    source: str = ""
    refusal: str = ""
    shared: str = ""

    @property
    def seconds(self) -> float:
        """Seconds of all remaining work for this arm."""
        return 0.0 if self.shared else len(self.to_do) * self.trial_seconds


@dataclass(frozen=True)
class Forecast:
    """The remaining work.

    Args:
        arms: The arms, in the experiment's order.
        trials: Every trial as arm, seed, key, and whether it is done.
        search: The remaining work of the search before; None if there is none.
        factor: Factor of the seconds, to include later rounds.
    """

    arms: tuple[ArmForecast, ...]
    trials: tuple[tuple[str, int, str, bool], ...]
    search: Forecast | None = None
    factor: float = 1.0

    @property
    def seconds(self) -> float:
        """Seconds of all remaining work, one trial after the other, with the search."""
        return self.factor * sum(arm.seconds for arm in self.arms) + (self.search.seconds if self.search else 0.0)

    @property
    def to_do(self) -> int:
        """The number of remaining trials, with those of the search."""
        own = {key for _, _, key, done in self.trials if not done}
        return len(own) + (self.search.to_do if self.search else 0)

    @property
    def total(self) -> int:
        """The number of all trials, with those of the search."""
        return len({key for _, _, key, _ in self.trials}) + (self.search.total if self.search else 0)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        return {
            "trials": [dict(zip(("arm", "seed", "key", "done"), trial, strict=True)) for trial in self.trials],
            "arms": [
                {
                    "label": arm.label,
                    "done": list(arm.done),
                    "to_do": list(arm.to_do),
                    "init_seconds": arm.init_seconds,
                    "trial_seconds": arm.trial_seconds,
                    "source": arm.source or None,
                    "refusal": arm.refusal or None,
                    "shared": arm.shared or None,
                }
                for arm in self.arms
            ],
            "search": self.search.as_dict() if self.search else None,
            "to_do": self.to_do,
            "seconds": self.seconds,
        }


def forecast(experiment: Experiment, store: Store, search: Search | None = None) -> Forecast:
    """List an experiment's trials, done and to do, and estimate the cost of the remaining ones.

    Nothing is written. The random states do not change.

    Args:
        experiment: The experiment.
        store: Its store.
        search: The search that would be run before.

    Returns:
        The estimate: starts and training steps from stored trials of the arm, where there are any, or else
        timed here on a few steps; evaluations are always timed here. All times are for one trial
        after the other.

    Raises:
        HeadstartError: The task or the model is not available.
    """
    context = experiment.context(store.decided)
    before = None
    if search is not None:
        before, experiment = _forecast_search(search, store, context, experiment)
    return replace(_forecast(experiment, store, context), search=before)


def _forecast_search(
    search: Search, store: Store, context: TrialContext, experiment: Experiment
) -> tuple[Forecast, Experiment]:
    """Follow a search as far as it has run; the rest is estimated."""
    folder, results = folder_of(store), dict[tuple[str, int], Any]()
    while True:
        cells = search.follow(context.training, results).cells
        before = _forecast(search.trial_experiment(context.training, cells), folder, context)
        results = results_of([trial[:3] for trial in before.trials if trial[3]], folder)
        if before.to_do:
            first = not results
            return replace(before, factor=rest_of(search) if first else 1.0), experiment
        if len(search.follow(context.training, results).cells) == len(cells):
            return before, search.chosen(context.training, results)


def _forecast(experiment: Experiment, store: Store, context: TrialContext) -> Forecast:
    context = experiment.prepare(store.decided, context)
    trials = experiment.trials(context)
    found = store.present(trial.key for trial in trials)
    finished = {key: record for key, record in found.items() if not record.open}
    clock = Clock(context)
    owners = {trial.key: trial.arm.label for trial in reversed(trials)}
    arms = tuple(_arm([t for t in trials if t.arm.label == arm.label], finished, clock, owners) for arm in context.arms)
    listed = tuple((trial.arm.label, trial.seed, trial.key, trial.key in finished) for trial in trials)
    return Forecast(arms, listed)


def _arm(
    trials: Sequence[Trial], finished: Mapping[str, Record], clock: Clock, owners: Mapping[str, str]
) -> ArmForecast:
    arm = trials[0].arm
    done = tuple(trial.seed for trial in trials if trial.key in finished)
    to_do = tuple(trial.seed for trial in trials if trial.key not in finished)
    owner = owners[trials[0].key]
    if not to_do or owner != arm.label:
        return ArmForecast(arm.label, done, to_do, shared=owner if owner != arm.label else "")
    stored = [finished[trial.key].result for trial in trials if trial.key in finished]
    try:
        init = median(float(r["init_seconds"]) for r in stored) if stored else clock.init(arm, to_do[0])
    except HeadstartError as error:
        return ArmForecast(arm.label, done, to_do, source=MEASURED, refusal=str(error))
    step = median(float(r["step_seconds"]) for r in stored) if stored else clock.step()
    seconds = init + clock.training(arm, step)
    return ArmForecast(arm.label, done, to_do, init, seconds, STORED if stored else MEASURED)


def ranges(seeds: Sequence[int]) -> str:
    """Write seeds in short form.

    Example:
        >>> ranges([0, 1, 2, 3, 7, 9, 10]), ranges([])
        ('0-3, 7, 9, 10', 'none')
    """
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(parts) or "none"


def duration(seconds: float) -> str:
    """Write a time in the unit that suits it.

    Example:
        >>> duration(0.123), duration(42), duration(600), duration(7300), duration(200_000)
        ('0.12 s', '42 s', '10 min', '2.0 h', '2.3 days')
    """
    if seconds < 10:
        return f"{seconds:.2f} s"
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7200)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
