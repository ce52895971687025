"""Seeds in blocks until all verdicts are decided, with the error rate of the whole procedure controlled.

The level is spent over a number of looks that is fixed in advance, little at first and nearly all at the last (O'Brien
and Fleming's spending). At each look Holm's adjustment covers the arms that are still open. What was decided stays
decided, and its share of the level goes to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.bench.analysis.analysis import Analysis, ArmSummary, analyse
from headstart.bench.runs.executors.base import Progress
from headstart.bench.runs.experiment import Experiment
from headstart.bench.runs.run import Summary, run
from headstart.bench.statistics.power import least_seeds
from headstart.bench.statistics.spending import plan_levels, spent
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
    def levels(self) -> tuple[float, ...]:
        """The level of each look."""
        return plan_levels(self.alpha, [count / self.seeds[-1] for count in self.seeds])

    def rule(self) -> str:
        """Describe the rule in a sentence or two, for the report."""
        if len(self.seeds) == 1:
            return (
                f"There is one look, after {self.seeds[0]} seeds, at level {self.alpha:g}: "
                "more looks would need more seeds."
            )
        counts = f"{', '.join(map(str, self.seeds[:-1]))} and {self.seeds[-1]}"
        levels = ", ".join(f"{level:.2g}" for level in self.levels)
        return (
            f"Seeds were added until every method had a verdict, with at most {len(self.seeds)} looks, fixed in "
            f"advance at {counts} seeds. The looks test at {levels} (O'Brien and Fleming's spending), so that over all "
            f"looks together a false “helps” or “hurts” has a chance of at most {self.alpha:g}. What was decided at a "
            "look stays decided."
        )


def plan_looks(most: int, comparisons: int, alpha: float, looks: int = LOOKS) -> Looks:
    """Choose when to look: first when the exact test can reach its level, last with all seeds.

    Args:
        most: The number of seeds that may be run.
        comparisons: The number of methods under test, for Holm's adjustment.
        alpha: Level of the whole procedure.
        looks: The largest number of looks; there are fewer if there are too few seeds.

    Example:
        >>> plan_looks(24, 2, 0.05).seeds, plan_looks(8, 2, 0.05).seeds
        ((12, 16, 20, 24), (7, 8))
    """
    share = max(1, comparisons)
    able = [n for n in range(2, most) if least_seeds(max(spent(alpha, n / most), 1e-300) / share) <= n]
    for count in range(min(looks, most), 1, -1):
        if able and able[0] + count - 1 <= most:
            step = (most - able[0]) / (count - 1)
            return Looks(tuple(round(able[0] + i * step) for i in range(count)), alpha)
    return Looks((most,), alpha)


def undecided(analysis: Analysis) -> list[str]:
    """List the methods without a verdict."""
    return [
        arm.label
        for arm in analysis.methods
        if not arm.refusal and (arm.comparison is None or arm.comparison.verdict is Verdict.NOT_SETTLED)
    ]


def decided(arm: ArmSummary) -> bool:
    """Tell whether a method helps or hurts. Such a verdict is final."""
    return arm.comparison is not None and arm.comparison.verdict in (Verdict.HELPS, Verdict.HURTS)


@dataclass(frozen=True)
class Decision:
    """How a run in blocks ended.

    Args:
        summary: What was run in all looks.
        looks: The planned looks.
        used: The number of looks that were used.
        open: Methods without a verdict.
    """

    summary: Summary
    looks: Looks
    used: int
    open: tuple[str, ...]

    def sentence(self) -> str:
        """Say when it stopped and why."""
        seeds, most = self.looks.seeds[self.used - 1], self.looks.seeds[-1]
        where = f"look {self.used} of {len(self.looks.seeds)}"
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

    After an interruption, a second run gives the same result, since finished trials are kept and the looks are fixed
    by the experiment. More seeds after the end are a new experiment, and this error rate does not cover them.

    Args:
        experiment: The experiment, with the largest number of seeds and the level of the whole procedure.
        store: As for `run`.
        progress: As for `run`.
        command: As for `run`.
        executor: As for `run`.
        looks: The largest number of looks.

    Returns:
        What was run, and when it stopped. The stored experiment lists the seeds that were run.

    Raises:
        HeadstartError: As `run`.
    """
    methods = sum(not arm.control for arm in experiment.arms[1:])
    plan = plan_looks(len(experiment.seeds), methods, experiment.alpha, looks)
    ran, elsewhere, seconds = 0, 0, 0.0
    redone: tuple[Damage, ...] = ()
    context = experiment.context(store.measure_once)
    kept: dict[str, str] = {}
    for count, level in zip(plan.seeds, plan.levels, strict=True):
        block = replace(
            experiment,
            seeds=experiment.seeds[:count],
            alpha=level,
            stopping=plan.rule(),
            looks=len(plan.seeds),
            kept=dict(kept),
        )
        done = run(block, store, progress, command, executor, context)
        ran, elsewhere, seconds = ran + done.ran, elsewhere + done.elsewhere, seconds + done.seconds
        redone = redone or done.redone
        found = analyse(store)
        kept |= {arm.label: arm.comparison.verdict.value for arm in found.methods if arm.comparison and decided(arm)}
        left = tuple(undecided(found))
        if not left:
            break
    before = done.ran + done.kept + done.elsewhere - ran - elsewhere
    used = plan.seeds.index(count) + 1
    return Decision(Summary(ran, before, redone, seconds, elsewhere), plan, used, left)
