"""What a part would cost: trials, steps and seconds, in a table, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.bench import Experiment
from headstart.bench.runs.forecast import duration
from headstart.bench.runs.selector import rounds
from headstart.bench.trials.arms import EQUAL_STEPS
from headstart.bench.trials.timing import Clock
from headstart.errors import HeadstartError

GPU_STEPS = 300
"""Steps a second that 12 processes made on one H200 together, of a CIFAR ResNet-20 and batches of 128."""


@dataclass(frozen=True)
class Cost:
    """What a comparison costs, if no grid is widened.

    Args:
        name: Of the comparison.
        steps: Of a training.
        trials: All of them, with those of the search.
        whole: The same in trainings of full length.
        seconds: Of all, one after the other on this machine: starts, trainings, evaluations.
        refused: Arms that refuse the network; they cost nothing.
    """

    name: str
    steps: int
    trials: int
    whole: float
    seconds: float
    refused: tuple[str, ...] = ()

    @property
    def all_steps(self) -> float:
        """Steps of all trials together."""
        return self.whole * self.steps


def cost(name: str, what: Experiment, grid: Mapping[str, Sequence[Any]] | None = None) -> Cost:
    """Time each arm's start and some training steps of a comparison, and count its trials.

    Args:
        name: Of the comparison.
        what: On data of the same kind; no number of the comparison depends on what the images show.
        grid: As for `evidence.running.compared`.
    """
    context = what.context()
    clock = Clock(context)
    tried = rounds(len(next(iter(grid.values())))) if grid else []
    trials, whole, seconds = 0, 0.0, 0.0
    refused = []
    for arm in what.arms:
        each = [] if arm.control == EQUAL_STEPS else tried
        count = len(what.seeds) * (1 + sum(number for number, _ in each))
        share = len(what.seeds) * (1 + sum(number * part for number, part in each))
        try:
            start = clock.init(arm, what.seeds[0]) if arm.control != EQUAL_STEPS else 0.0
        except HeadstartError:
            refused.append(arm.label)
            continue
        trials, whole = trials + count, whole + share
        seconds += count * start + share * clock.training(arm, clock.step())
    return Cost(name, context.training.steps, trials, whole, seconds, tuple(refused))


def table(costs: Sequence[Cost]) -> str:
    """Write the costs as a table, with their sum."""
    head = ("comparison", "steps", "trials", "steps in all", "here, one core", "at 300 steps/s", "refused by")
    rows = [
        (
            each.name,
            f"{each.steps:,}",
            f"{each.trials:,}",
            f"{each.all_steps:,.0f}",
            duration(each.seconds),
            duration(each.all_steps / GPU_STEPS),
            ", ".join(each.refused) or "none",
        )
        for each in costs
    ]
    steps = sum(each.all_steps for each in costs)
    total = ("all", "", f"{sum(each.trials for each in costs):,}", f"{steps:,.0f}")
    total += (duration(sum(each.seconds for each in costs)), duration(steps / GPU_STEPS), "")
    widths = [max(len(row[place]) for row in (head, *rows, total)) for place in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if place in (0, 6) else cell.rjust(w)
            for place, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows, total)
    ]
    return "\n".join(line.rstrip() for line in lines)
