"""Seeds in blocks until the verdicts are in, with the error rate of the whole procedure kept.

The rule is Bonferroni's over a number of looks that is fixed in advance: each look tests at α divided by
that number. Whatever the data are, the chance that any look finds something where there is nothing is at
most the sum over the looks, which is α. It holds for every rule of when to stop, and needs no more than
the validity of the exact sign-flip test at each look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.bench.analysis.analysis import Analysis, analyse
from headstart.bench.runs.executors.base import Progress
from headstart.bench.runs.experiment import Experiment
from headstart.bench.runs.run import Summary, run
from headstart.bench.statistics.power import least_seeds
from headstart.bench.statistics.verdicts import Verdict
from headstart.bench.store.store import Damage, Store
from headstart.bench.trainer.experiment import TrainerExperiment

LOOKS = 4


@dataclass(frozen=True)
class Looks:
    """When to look, fixed before any result is seen.

    Args:
        seeds: How many seeds are finished at each look, rising.
        alpha: The level of the whole procedure.
    """

    seeds: tuple[int, ...]
    alpha: float

    @property
    def level(self) -> float:
        """The level of each look."""
        return self.alpha / len(self.seeds)

    def rule(self) -> str:
        """Say the rule in a sentence or two, for the report."""
        if len(self.seeds) == 1:
            return (
                f"There is one look, after {self.seeds[0]} seeds, at level {self.alpha:g}: "
                "fewer could not reach the level of more looks."
            )
        counts = f"{', '.join(map(str, self.seeds[:-1]))} and {self.seeds[-1]}"
        return (
            f"Seeds were added until every method had a verdict, with at most {len(self.seeds)} looks, fixed in "
            f"advance at {counts} seeds. Each look tests at {self.level:g}, so that over all looks together a "
            f"false “helps” or “hurts” has a chance of at most {self.alpha:g} per question."
        )


def plan_looks(most: int, comparisons: int, alpha: float, looks: int = LOOKS) -> Looks:
    """Choose when to look: first when the exact test can reach its level at all, last with all seeds.

    Args:
        most: The number of seeds that may be run.
        comparisons: Methods under test, over which Holm's adjustment goes.
        alpha: Level of the whole procedure.
        looks: The most looks; there are fewer where the seeds are too few for so many.

    Example:
        >>> plan_looks(24, 2, 0.05).seeds, plan_looks(8, 2, 0.05).seeds
        ((9, 14, 19, 24), (8,))
    """
    for count in range(min(looks, most), 1, -1):
        first = least_seeds(alpha / count / max(1, comparisons))
        if first + count - 1 <= most:
            step = (most - first) / (count - 1)
            return Looks(tuple(round(first + i * step) for i in range(count)), alpha)
    return Looks((most,), alpha)


def undecided(analysis: Analysis) -> list[str]:
    """List the methods without a verdict: neither helps nor hurts nor a design that would have seen it."""
    return [
        arm.label
        for arm in analysis.methods
        if not arm.refusal and (arm.comparison is None or arm.comparison.verdict is Verdict.NOT_SETTLED)
    ]


@dataclass(frozen=True)
class Decision:
    """How a run in blocks ended.

    Args:
        summary: What was run, over all looks.
        looks: When it could look.
        used: How many looks it took.
        open: Methods that are still without a verdict.
    """

    summary: Summary
    looks: Looks
    used: int
    open: tuple[str, ...]

    def sentence(self) -> str:
        """Say when it stopped and why."""
        seeds, most = self.looks.seeds[self.used - 1], self.looks.seeds[-1]
        where = f"look {self.used} of {len(self.looks.seeds)}, each at level {self.looks.level:g}"
        if self.open:
            return f"Still open after all {most} seeds ({where}): {', '.join(self.open)}."
        return f"Decided after {seeds} of {most} seeds ({where})."


def run_until_decided(
    experiment: Experiment | TrainerExperiment,
    store: Store,
    progress: Progress | None = None,
    command: Sequence[str] = (),
    executor: Any = None,
    looks: int = LOOKS,
) -> Decision:
    """Run an experiment's seeds in blocks, and stop at the first look at which every method has a verdict.

    Interrupted and run again it comes to the same, since finished trials are kept and the looks are fixed
    by the experiment. More seeds after the end are a new experiment, which this error rate does not cover.

    Args:
        experiment: With the most seeds that may be run, and the level of the whole procedure.
        store: As for `run`.
        progress: As for `run`.
        command: As for `run`.
        executor: As for `run`.
        looks: The most looks.

    Returns:
        What was run, and when it stopped. The stored experiment has the seeds that were run.

    Raises:
        HeadstartError: As `run`.
    """
    methods = sum(not arm.control for arm in experiment.arms[1:])
    plan = plan_looks(len(experiment.seeds), methods, experiment.alpha, looks)
    ran, elsewhere, seconds = 0, 0, 0.0
    redone: tuple[Damage, ...] = ()
    context = experiment.context(store.measure_once)
    for count in plan.seeds:
        block = replace(
            experiment,
            seeds=experiment.seeds[:count],
            alpha=plan.level,
            stopping=plan.rule(),
            looks=len(plan.seeds),
        )
        done = run(block, store, progress, command, executor, context)
        ran, elsewhere, seconds = ran + done.ran, elsewhere + done.elsewhere, seconds + done.seconds
        redone = redone or done.redone
        left = tuple(undecided(analyse(store)))
        if not left:
            break
    kept = done.ran + done.kept + done.elsewhere - ran - elsewhere
    used = plan.seeds.index(count) + 1
    return Decision(Summary(ran, kept, redone, seconds, elsewhere), plan, used, left)
