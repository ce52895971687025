"""What a run with a user's trainer would do. Its cost is known once trials have run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from headstart.bench.runs.experiment import Trial
from headstart.bench.runs.forecast import STORED, ArmForecast, Forecast
from headstart.bench.store.store import Facts, Record, Store
from headstart.bench.trainer.experiment import TrainerExperiment
from headstart.bench.trials.arms import EQUAL_STEPS


class _UnknownError(Exception):
    """An answer that needs a run of the command."""


def forecast_trainer(experiment: TrainerExperiment, store: Store) -> Forecast:
    """List the trials, done and to do. Nothing is written, and the command is not run.

    Equal-steps controls whose steps are not known yet are left out.

    Args:
        experiment: The experiment.
        store: Its store.

    Raises:
        HeadstartError: The data or the model is not available.
    """

    def ask(question: Facts, answer: Callable[[], Facts]) -> Facts:
        def unknown() -> Facts:
            raise _UnknownError

        return store.decided(question, unknown)

    context = experiment.context()
    try:
        context = experiment.prepare(ask, context)
    except _UnknownError:
        arms = tuple(arm for arm in experiment.arms if arm.control != EQUAL_STEPS)
        context = replace(experiment, arms=arms).prepare(ask, context)
    trials = experiment.trials(context)
    found = store.present(trial.key for trial in trials)
    finished = {key: record for key, record in found.items() if not record.open}
    listed = tuple((trial.arm.label, trial.seed, trial.key, trial.key in finished) for trial in trials)
    return Forecast(tuple(_arm([t for t in trials if t.arm is arm], finished) for arm in context.arms), listed)


def _arm(trials: Sequence[Trial], finished: dict[str, Record]) -> ArmForecast:
    done = tuple(trial.seed for trial in trials if trial.key in finished)
    to_do = tuple(trial.seed for trial in trials if trial.key not in finished)
    stored: list[Any] = [record.result for record in finished.values()]
    if not to_do or not stored:
        return ArmForecast(trials[0].arm.label, done, to_do)
    own = [finished[trial.key].result for trial in trials if trial.key in finished]
    init = median(float(result["init_seconds"]) for result in own) if own else 0.0
    train = median(float(result["train_seconds"]) for result in own or stored)
    return ArmForecast(trials[0].arm.label, done, to_do, init, init + train, STORED)
