"""Search of hyperparameters: with every seed each arm chooses anew, on validation only, before any test.

The verdict is on the search together with the trial that it configures. So the noise of the choice is in every
difference between seeds, and so in intervals and tests.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headstart.bench.runs.executors.base import Executor, Progress
from headstart.bench.runs.experiment import Experiment
from headstart.bench.runs.run import Summary, run
from headstart.bench.runs.selector import Selector, Wanted, rounds
from headstart.bench.specs.setting import WHAT, check_settings, documented, setting
from headstart.bench.store.store import Damage, Store
from headstart.bench.trials.arms import EQUAL_STEPS, Arm
from headstart.bench.trials.budget import stretch
from headstart.bench.trials.grid import Axis, Configuration, configurations, configured, make_grid
from headstart.bench.trials.training import Training
from headstart.errors import HeadstartError

Result = Mapping[str, Any]
Cell = tuple[Arm, int]
FOLDER = "search"
FIRST_SEED = 10**9
"""The search for seed s uses this number plus s; the seeds of an experiment with a search must be smaller."""


@documented
@dataclass(frozen=True)
class Search:
    """The configurations that every arm tries with every seed, before an experiment.

    Args:
        experiment: The experiment whose arms are configured.
        axes: From `make_grid`.
    """

    experiment: Experiment
    axes: tuple[Axis, ...]
    seeds: int = setting(1, "trainings of each configuration, for each seed", group=WHAT, name="search-seeds", least=1)
    trials: int = setting(
        0,
        "configurations per arm; 0: as many as the values of training settings give, the largest possible number",
        group=WHAT,
        name="search-trials",
        least=0,
    )

    def __post_init__(self) -> None:
        common = math.prod(len(axis.values) for axis in self.axes if not axis.arm)
        check_settings(self)
        if max(self.experiment.seeds) >= FIRST_SEED:
            raise HeadstartError(
                f"With a search, seeds must be below {FIRST_SEED:,}, where the seeds of searches begin."
            )
        if common < 2 or self.trials > common:
            raise HeadstartError(
                f"The default start has {common} configuration{'s' * (common > 1)} to try, and no arm may try more:"
                " a larger choice would be an advantage by itself.",
                remedy="Search more values of a training setting, which all arms share, such as lr=3e-4,1e-3,3e-3.",
            )

    @property
    def budget(self) -> int:
        """The number of configurations that each arm tries with each seed, before any grid is widened."""
        return self.trials or math.prod(len(axis.values) for axis in self.axes if not axis.arm)

    def searched(self) -> list[Arm]:
        """List the arms that search: all except the equal-steps controls, but also the null arm."""
        return [arm for arm in self.experiment.arms if arm.control != EQUAL_STEPS]

    def follow(self, training: Training, results: Mapping[tuple[str, int], Result]) -> Followed:
        """Continue every choice as far as the results allow.

        Args:
            training: The resolved training.
            results: The results of trials of the search, by label and seed.
        """
        found = Followed({}, [])
        for arm in self.searched():
            tried = configurations(self.axes, arm, training, self.budget)
            own = [axis for axis in self.axes if axis.concerns(arm)]
            for seed in self.experiment.seeds:
                selector = Selector(tried, own, functools.partial(self._can, arm, training))
                while selector.wanted:
                    cells = [self._cells(arm, seed, wanted, training) for wanted in selector.wanted]
                    found.cells += [cell for each in cells for cell in each]
                    keys = [[(trial.label, draw) for trial, draw in each] for each in cells]
                    if any(key not in results for each in keys for key in each):
                        break
                    selector.tell([_accuracy([results[key] for key in each]) for each in keys])
                found.selectors[arm.label, seed] = selector
        return found

    def _can(self, arm: Arm, training: Training, configuration: Configuration) -> bool:
        """Tell whether a value beyond the grid is possible."""
        with contextlib.suppress(HeadstartError):
            replace(training, **dict(configured(arm, self.axes, configuration).changes)).resolve(training.batch_size)
            configured(arm, self.axes, configuration).methods()
            return True
        return False

    def _cells(self, arm: Arm, seed: int, wanted: Wanted, training: Training) -> list[Cell]:
        """List the trials of a configuration, one for each draw."""
        made = configured(arm, self.axes, wanted.configuration)
        label = f"{arm.label}, {text(wanted.configuration)}"
        if wanted.share < 1:
            full = replace(training, **dict(made.changes))
            short = stretch(full, max(1, round(full.steps * wanted.share)))
            made = replace(made, changes=tuple({**dict(made.changes), **short}.items()))
            label += f", {wanted.share:.3g} of the steps"
        return [(replace(made, label=label), (1 + draw) * FIRST_SEED + seed) for draw in range(self.seeds)]

    def trial_experiment(self, training: Training, cells: Sequence[Cell]) -> Experiment:
        """Return trials of the search as an experiment: one arm per configuration, without test images.

        Args:
            training: Resolved.
            cells: The trials, from :meth:`follow`.
        """
        return replace(
            self.experiment,
            arms=tuple({arm.label: arm for arm, _ in cells}.values()),
            seeds=tuple(dict.fromkeys(seed for _, seed in cells)),
            training=training,
            auto=(),
            test=False,
            only=frozenset((arm.label, seed) for arm, seed in cells),
        )

    def chosen(self, training: Training, results: Mapping[tuple[str, int], Result]) -> Experiment:
        """Configure each arm, for each seed, as it chose.

        The best has the highest validation accuracy at the end of training; training that diverged counts as guessing,
        and among equals the first one listed is taken. An arm whose method refuses the model is not configured. The
        equal-steps controls, which are default starts, take what was chosen for the default start with the same seed.

        Args:
            training: Resolved.
            results: The results of all trials of the search, by label and seed.

        Returns:
            The experiment with configured arms, and everything that was tried in its ``selection``.
        """
        found = self.follow(training, results).selectors
        first = self.experiment.arms[0].label
        configured_arms: dict[tuple[str, int], Arm] = {}
        for arm in self.experiment.arms:
            for seed in self.experiment.seeds:
                choice = found[first if arm.control == EQUAL_STEPS else arm.label, seed].chosen
                if choice is not None:
                    configured_arms[arm.label, seed] = configured(arm, self.axes, choice)
        axes = [
            {"name": axis.name, "arm": axis.arm, "key": axis.key, "values": list(axis.values)} for axis in self.axes
        ]
        arms = [
            {"arm": arm.label, "seeds": {str(s): _told(found[arm.label, s]) for s in self.experiment.seeds}}
            for arm in self.searched()
        ]
        selection = {"axes": axes, "seeds": self.seeds, "budget": self.budget, "each": True, "arms": arms}
        return replace(self.experiment, configured=configured_arms, selection=selection)


@dataclass
class Followed:
    """The progress of a search.

    Args:
        selectors: The selectors of each arm and seed.
        cells: The trials that were requested so far.
    """

    selectors: dict[tuple[str, int], Selector]
    cells: list[Cell]


def search(
    experiment: Experiment,
    grid: Mapping[str, Sequence[Any]],
    store: Store,
    *,
    seeds: int = 1,
    trials: int = 0,
    progress: Progress | None = None,
    command: Sequence[str] = (),
    executor: Executor | None = None,
) -> Experiment:
    """Choose each arm's hyperparameters on validation, anew for every seed, by the same rule for all arms.

    Successive halving: train all configurations for few steps, the better half for four times as many, until two are
    trained in full. If the best number is at the edge of its grid, the next one beyond is tried, at most three
    times. The search is a separate experiment in the folder ``search`` of the store: it can be interrupted, shared by
    several processes, and watched while it runs. Its trials get no test images.

    Args:
        experiment: The experiment whose arms are configured.
        grid: Values by a field of `Training`, for all arms, or by ``ARM.option``, for an arm and its controls.
        store: The store of the experiment.
        seeds: How many draws each configuration is trained with, for each seed of the experiment.
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
    """Run a described search; see :func:`search`. Also returns what was run."""
    inner = folder_of(store)
    context = what.experiment.context(store.measure_once)  # the search trains as the experiment does
    ran, known, elsewhere, seconds = 0, 0, 0, 0.0
    redone: tuple[Damage, ...] = ()
    results: dict[tuple[str, int], Result] = {}
    while True:
        cells = what.follow(context.training, results).cells
        if all((arm.label, seed) in results for arm, seed in cells):
            break
        done = run(what.trial_experiment(context.training, cells), inner, progress, command, executor, context)
        ran, elsewhere, seconds = ran + done.ran, elsewhere + done.elsewhere, seconds + done.seconds
        known, redone = done.ran + done.kept + done.elsewhere, redone or done.redone
        stored = inner.read_experiment()["trials"]
        results = results_of([(cell["arm"], cell["seed"], cell["key"]) for cell in stored], inner)
    return what.chosen(context.training, results), Summary(ran, known - ran - elsewhere, redone, seconds, elsewhere)


def rest_of(what: Search) -> float:
    """Return the cost of a whole search as a multiple of its first round, if no grid is widened.

    Args:
        what: The search.
    """
    costs = [count * share for count, share in rounds(what.budget)]
    return sum(costs) / costs[0]


def folder_of(store: Store) -> Store:
    """Return the store of an experiment's search."""
    return Store(store.folder / FOLDER)


def results_of(cells: Sequence[tuple[str, int, str]], store: Store) -> dict[tuple[str, int], Result]:
    """Read results by arm and seed.

    Args:
        cells: Arm, seed and key of each trial; trials that are not stored are left out.
        store: The store of the search.
    """
    records = store.present(key for *_, key in cells)
    return {(label, seed): records[key].result for label, seed, key in cells if key in records}


def _accuracy(results: Sequence[Result]) -> float | None:
    """Return the mean validation accuracy over draws; None if the method refuses the model."""
    if any(result["status"] == "refused" for result in results):
        return None
    return float(np.mean([float(result["validation_accuracy"]) for result in results]))


def _told(selector: Selector) -> dict[str, Any]:
    """Describe a choice for the report."""
    tried = [{"values": values, "share": share, "accuracy": accuracy} for values, share, accuracy in selector.tried]
    return {"chosen": selector.chosen, "tried": tried, "stopped": list(selector.stopped)}


def text(configuration: Mapping[str, Any]) -> str:
    """Write a configuration on one line.

    Example:
        >>> text({"lr": 0.001, "prewarm.scale": "paper"})
        'lr=0.001, scale=paper'
    """
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in configuration.items())
