"""Steps to the baseline's accuracy: the share of the budget until an arm has the baseline's final accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.bench.statistics.censored import censored_median, median_interval, steps_to
from headstart.bench.statistics.paired import Interval

RULE = (
    "Steps to the baseline's accuracy do not decide a verdict. The target is the mean over seeds of the "
    "baseline's final validation accuracy, the same for all arms and seeds. A seed reaches it where its validation "
    "curve, drawn straight between evaluations, first gets there and the next evaluation does not fall below it "
    "again. The start's time is added, in training steps of the baseline. A seed that does not reach it within the"
    " budget, or diverges, counts as later than all others. The median has an exact 95 % interval from order"
    " statistics, which needs six seeds and treats the target as known. The baseline's own row is the yardstick: it"
    " ends at this accuracy on average, so about half of its seeds reach it."
)

_LEARNED = 0.05  # of the way from guessing to no error; with many classes, twice guessing is enough


@dataclass(frozen=True)
class Target:
    """The baseline's final accuracy, and how soon the baseline itself reaches it.

    Args:
        baseline: Its label.
        accuracy: Mean over seeds of its final accuracy, in percent of the validation images.
        budget: The steps that a trial trains.
        median: The median of its own steps to this accuracy; None if it is beyond the budget.
    """

    baseline: str
    accuracy: float
    budget: int
    median: float | None

    def share(self, steps: float | None) -> str:
        """Write steps as a share of the budget."""
        return f"{100 * steps / self.budget:.0f} %" if steps is not None and math.isfinite(steps) else "not reached"

    def hollow(self, guess: float | None) -> list[str]:
        """Warn if the baseline hardly learned: then its accuracy is reached early, which means nothing.

        Args:
            guess: The accuracy of guessing, in percent; without it there is no warning.

        Returns:
            At most one sentence.

        Example:
            >>> Target("default", 90.9, 100, None).hollow(guess=10.0)
            []
        """
        if guess is None or guess == 0 or self.accuracy > guess + min(guess, _LEARNED * (100 - guess)):
            return []
        return [
            f"{self.baseline} ends at {self.accuracy:.2f} % on validation, where guessing has {guess:.2f} %: "
            "steps to its accuracy say little here."
        ]


@dataclass(frozen=True)
class Speed:
    """How soon the seeds of an arm reach the baseline's final accuracy.

    Args:
        target: The accuracy.
        steps: Seed -> steps, with the start's cost in steps; None if not within the budget.
        median: The median of the steps; None if it is beyond the budget.
        interval: 95 % interval of the median; an infinite upper end is beyond the budget. Without ends if
            there are too few seeds.
    """

    target: Target
    steps: Mapping[int, float | None]
    median: float | None
    interval: Interval

    @property
    def reached(self) -> int:
        """Number of seeds that reach it within the budget."""
        return sum(s is not None for s in self.steps.values())

    @property
    def estimated(self) -> bool:
        """Whether there are enough seeds for an interval."""
        return self.interval.low != -math.inf

    def share(self) -> str:
        """Write the median as a share of the budget."""
        return self.target.share(self.median)

    def span(self) -> str:
        """Write the interval as shares of the budget; an empty string if there is none."""
        if not self.estimated:
            return ""
        low, high = self.target.share(self.interval.low), self.target.share(self.interval.high)
        if low == high:
            return low
        return f"{low.removesuffix(' %') if high.endswith('%') else low} to {high}"

    def sentence(self) -> str:
        """Say after which share of the steps an arm reaches the baseline's final accuracy, and in how many runs."""
        base, runs = self.target.baseline, len(self.steps)
        if not self.reached:
            return f"Within these steps none of its runs reaches the final accuracy of {base}."
        if self.median is None:
            some = f"{self.reached} of {runs} do"
            return f"Within these steps most of its runs do not reach the final accuracy of {base}: {some}."
        likely = f"likely {self.span().replace('not reached', 'not at all')}" if self.estimated else ""
        some = f"{self.reached} of {runs} runs reach it" if self.reached < runs else ""
        own = f"{base} itself: {self.target.share(self.target.median)}" if self.target.median is not None else ""
        more = "; ".join(filter(None, [likely, some, own]))
        more = f" ({more})" if more else ""
        return f"After {self.share()} of the steps it reaches the final accuracy of {base}{more}."


def target_of(label: str, base: Mapping[int, Mapping[str, Any]], budget: int) -> Target | None:
    """Find the baseline's final accuracy.

    It is one target for all seeds: the final accuracy of a single seed would add its own noise to
    every time.

    Args:
        label: The label of the baseline.
        base: Its results by seed.
        budget: Steps that a trial trains.

    Returns:
        The target; None if no seed of the baseline is finished.
    """
    ends = [r["validation_accuracy"] for r in base.values() if r["status"] == "done"]
    if not ends:
        return None
    accuracy = float(np.mean(ends))
    return Target(label, accuracy, budget, censored_median([_steps(r, accuracy, budget, 0.0) for r in base.values()]))


def speed_to(target: Target, own: Mapping[int, Mapping[str, Any]], cost: float) -> Speed:
    """Find how soon an arm reaches the target.

    Args:
        target: The baseline's final accuracy.
        own: The arm's results by seed.
        cost: The cost of the start, in steps.

    Example:
        >>> curve = [{"step": 0, "accuracy": 10.0}, {"step": 100, "accuracy": 90.0}]
        >>> speed_to(Target("default", 50.0, 100, None), {0: {"status": "done", "curve": curve}}, cost=5.0).median
        55.0
    """
    steps = {seed: _steps(result, target.accuracy, target.budget, cost) for seed, result in own.items()}
    times = list(steps.values())
    return Speed(target, steps, censored_median(times), median_interval(times))


def _steps(result: Mapping[str, Any], accuracy: float, budget: int, cost: float) -> float | None:
    if result["status"] != "done":
        return None
    curve = result["curve"]
    found = steps_to([p["step"] for p in curve], [p["accuracy"] for p in curve], accuracy)
    return found + cost if found is not None and found + cost <= budget else None
