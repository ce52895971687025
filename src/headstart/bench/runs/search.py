"""Hyperparameters by search: each arm tries equally many configurations, on validation alone, before any is tested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headstart.bench.runs.executors.base import Executor, Progress
from headstart.bench.runs.experiment import Experiment
from headstart.bench.runs.run import Summary, run
from headstart.bench.store.store import Store
from headstart.bench.trials.arms import EQUAL_STEPS, Arm
from headstart.bench.trials.grid import Axis, Configuration, configurations, configured, make_grid
from headstart.bench.trials.training import Training
from headstart.errors import HeadstartError

Result = Mapping[str, Any]
FOLDER = "search"
FIRST_SEED = 10**9
"""Search seeds are this and the following numbers; those of an experiment with a search are smaller."""
_FOLLOW = ("null", EQUAL_STEPS)  # these controls are the default start, and take what was chosen for it


@dataclass(frozen=True)
class Search:
    """What is to be tried before an experiment.

    Args:
        experiment: Whose arms are to be configured.
        axes: From `make_grid`.
        seeds: For how many seeds each configuration is trained.
        trials: Configurations per arm; 0 for as many as training's own values give, which is the most, since
            every arm has those.

    Raises:
        HeadstartError: If the numbers make no sense.
    """

    experiment: Experiment
    axes: tuple[Axis, ...]
    seeds: int = 2
    trials: int = 0

    def __post_init__(self) -> None:
        common = math.prod(len(axis.values) for axis in self.axes if not axis.arm)
        if self.seeds < 1 or self.trials < 0:
            raise HeadstartError(f"A search needs at least one seed and one trial, not {self.seeds} and {self.trials}.")
        if max(self.experiment.seeds) >= FIRST_SEED:
            raise HeadstartError(f"With a search, seeds must be below {FIRST_SEED:,}, from where its own are taken.")
        if common < 2 or self.trials > common:
            raise HeadstartError(
                f"The default start has {common} configuration{'s' * (common > 1)} to try, and no arm may try more: "
                "choosing among more would win by itself.",
                remedy="Search a word of training with more values, such as lr=3e-4,1e-3,3e-3, which all arms have.",
            )

    @property
    def budget(self) -> int:
        """Configurations that each arm tries."""
        return self.trials or math.prod(len(axis.values) for axis in self.axes if not axis.arm)

    def tried(self) -> dict[str, list[tuple[Configuration, Arm]]]:
        """List the configurations of each arm that is searched, by its label."""
        training = self.experiment.training
        return {
            arm.label: [
                (found, replace(configured(arm, self.axes, found), label=f"{arm.label}, {text(found)}"))
                for found in configurations(self.axes, arm, training, self.budget)
            ]
            for arm in self.experiment.arms
            if arm.control not in _FOLLOW
        }

    def trial_experiment(self, training: Training) -> Experiment:
        """Return the search as an experiment: an arm for each configuration, seeds of its own, no test images.

        Args:
            training: Resolved.
        """
        return replace(
            self.experiment,
            arms=tuple(arm for tried in self.tried().values() for _, arm in tried),
            seeds=tuple(range(FIRST_SEED, FIRST_SEED + self.seeds)),
            training=training,
            auto=(),
            test=False,
        )

    def chosen(self, results: Mapping[tuple[str, int], Result]) -> Experiment:
        """Give each arm its best configuration.

        The best has the highest mean validation accuracy at the end of training over the search's seeds; training
        that diverged counts as guessing, and of equally good ones the first listed is taken. An arm whose method
        refuses the model stays as it is. The null arm and the equal-steps controls, which are default starts, take
        what was chosen for the default start.

        Args:
            results: Of all trials of :meth:`trial_experiment`, by arm and seed.

        Returns:
            The experiment with its arms configured, and all that was tried in its ``selection``.
        """
        best: dict[str, Arm] = {}
        report = []
        for label, tried in self.tried().items():
            rows = [_row(configuration, arm, results) for configuration, arm in tried]
            means = [row["mean"] if row["mean"] is not None else -math.inf for row in rows]
            place = None if max(means) == -math.inf else means.index(max(means))
            report.append({"arm": label, "chosen": place, "tried": rows})
            if place is not None:
                best[label] = configured(self._arm(label), self.axes, tried[place][0])
        baseline = self.experiment.arms[0]
        changes = best.get(baseline.label, baseline).changes
        arms = tuple(
            replace(arm, changes=changes) if arm.control in _FOLLOW else best.get(arm.label, arm)
            for arm in self.experiment.arms
        )
        axes = [
            {"name": axis.name, "arm": axis.arm, "key": axis.key, "values": list(axis.values)} for axis in self.axes
        ]
        selection = {"axes": axes, "seeds": self.seeds, "budget": self.budget, "arms": report}
        return replace(self.experiment, arms=arms, selection=selection)

    def _arm(self, label: str) -> Arm:
        return next(arm for arm in self.experiment.arms if arm.label == label)


def search(
    experiment: Experiment,
    grid: Mapping[str, Sequence[Any]],
    store: Store,
    *,
    seeds: int = 2,
    trials: int = 0,
    progress: Progress | None = None,
    command: Sequence[str] = (),
    executor: Executor | None = None,
) -> Experiment:
    """Choose each arm's hyperparameters on validation, all arms with the same number of trials.

    The search is an experiment of its own in the folder ``search`` of the store: it can be interrupted, shared by
    several drivers, and looked at while it runs. Its trials are given no test images.

    Args:
        experiment: Whose arms are to be configured.
        grid: Values by a field of `Training`, for all arms, or by ``ARM.option``, for an arm and its controls.
        store: Of the experiment.
        seeds: For how many seeds each configuration is trained. They are no seeds of the experiment.
        trials: Configurations per arm; by default as many as the grid has for the default start.
        progress: As for `run`.
        command: As for `run`.
        executor: As for `run`.

    Returns:
        The experiment with every arm configured, ready for `run`.

    Raises:
        HeadstartError: As `run`, or if there is no such thing to search.
    """
    axes = make_grid(grid, experiment.arms, experiment.training)
    return run_search(Search(experiment, axes, seeds, trials), store, progress, command, executor)[0]


def run_search(
    what: Search,
    store: Store,
    progress: Progress | None = None,
    command: Sequence[str] = (),
    executor: Executor | None = None,
) -> tuple[Experiment, Summary]:
    """Run a search that was already described; see :func:`search`. Also returns what was run."""
    inner = folder_of(store)
    context = what.experiment.context(store.measure_once)  # the search trains as the experiment does
    done = run(what.trial_experiment(context.training), inner, progress, command, executor, context)
    cells = inner.read_experiment()["trials"]
    return what.chosen(results_of([(cell["arm"], cell["seed"], cell["key"]) for cell in cells], inner)), done


def folder_of(store: Store) -> Store:
    """Return the store of an experiment's search."""
    return Store(store.folder / FOLDER)


def results_of(cells: Sequence[tuple[str, int, str]], store: Store) -> dict[tuple[str, int], Result]:
    """Read results by arm and seed.

    Args:
        cells: Arm, seed and key of each trial, all of which are stored.
        store: Of the search.
    """
    records = store.present(key for *_, key in cells)
    return {(label, seed): records[key].result for label, seed, key in cells}


def _row(configuration: Configuration, arm: Arm, results: Mapping[tuple[str, int], Result]) -> dict[str, Any]:
    own = [result for (label, _), result in results.items() if label == arm.label]
    refused = [str(result["reason"]) for result in own if result["status"] == "refused"]
    accuracies = [] if refused else [float(result["validation_accuracy"]) for result in own]
    return {
        "values": configuration,
        "accuracies": accuracies,
        "mean": float(np.mean(accuracies)) if accuracies else None,
        "diverged": sum(result["status"] == "diverged" for result in own),
        "refusal": refused[0] if refused else "",
    }


def text(configuration: Mapping[str, Any]) -> str:
    """Write a configuration in a line.

    Example:
        >>> text({"lr": 0.001, "prewarm.scale": "paper"})
        'lr=0.001, scale=paper'
    """
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in configuration.items())
