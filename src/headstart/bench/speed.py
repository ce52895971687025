"""Steps to the baseline's accuracy: how much of the budget an arm needs to get where the baseline ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.bench.censored import censored_median, median_interval, steps_to
from headstart.bench.statistics import Interval

RULE = (
    "Steps to the baseline's accuracy decide nothing by themselves. The target is the mean over seeds of the "
    "baseline's final validation accuracy, the same for all arms and seeds. A seed reaches it where its validation "
    "curve, drawn straight between evaluations, first gets there and the next evaluation does not fall below it "
    "again. The start's time is added, in training steps of the baseline. A seed that is not there within the "
    "budget, or diverges, counts as later than all others. Given are the median and its exact 95 % interval from "
    "order statistics, which takes six seeds and takes the target as it is. The baseline's own row is the yardstick: "
    "it ends at this accuracy on average, so about half of its seeds reach it."
)

_LEARNED = 0.05  # of the way from guessing to no error; with many classes, twice guessing is enough


@dataclass(frozen=True)
class Speed:
    """How soon the seeds of an arm reach the accuracy that the baseline ends with.

    Args:
        baseline: Its label.
        target: The accuracy, in percent of the validation images.
        budget: The steps that a trial trains.
        steps: By seed, with the start's cost in steps; None if not within the budget.
        median: Of the steps; None if it lies beyond the budget.
        interval: 95 % interval of the median; an infinite upper end lies beyond the budget. Without ends if
            there are too few seeds.
    """

    baseline: str
    target: float
    budget: int
    steps: Mapping[int, float | None]
    median: float | None
    interval: Interval

    @property
    def reached(self) -> int:
        """Number of seeds that get there within the budget."""
        return sum(s is not None for s in self.steps.values())

    @property
    def estimated(self) -> bool:
        """Whether there are seeds enough for an interval."""
        return self.interval.low != -math.inf

    def share(self, steps: float | None) -> str:
        """Write steps as a share of the budget."""
        return f"{100 * steps / self.budget:.0f} %" if steps is not None and math.isfinite(steps) else "not reached"

    def span(self) -> str:
        """Write the interval as shares of the budget; an empty string if there is none."""
        if not self.estimated:
            return ""
        low, high = self.share(self.interval.low), self.share(self.interval.high)
        if low == high:
            return low
        return f"{low.removesuffix(' %') if high.endswith('%') else low} to {high}"

    def sentence(self) -> str:
        """Say after which share of the steps an arm gets there, how surely, and in how many seeds."""
        what = f"{self.baseline}'s final validation accuracy of {self.target:.2f} %"
        seeds = f"{self.reached} of {len(self.steps)} seeds"
        if not self.reached:
            return f"It reaches {what} in no seed within the steps."
        span = f"95 % interval {self.span()}; " if self.estimated else ""
        if self.median is None:
            return f"In the median it does not reach {what} within the steps ({span}reached in {seeds})."
        return f"It reaches {what} after {self.share(self.median)} of the steps ({span}{seeds})."


def steps_to_baseline(
    label: str,
    own: Mapping[int, Mapping[str, Any]],
    base: Mapping[int, Mapping[str, Any]],
    budget: int,
    cost: float,
) -> Speed | None:
    """Find how soon an arm reaches the baseline's final accuracy.

    The target is one for all seeds, the baseline's mean: the accuracy that a single seed happened to end with
    would add its own noise to every time.

    Args:
        label: Of the baseline.
        own: The arm's results by seed.
        base: The baseline's.
        budget: Steps that a trial trains.
        cost: Of the start, in steps.

    Returns:
        The times; None if there is no result of either.

    Example:
        >>> curve = [{"step": 0, "accuracy": 10.0}, {"step": 100, "accuracy": 90.0}]
        >>> result = {"status": "done", "curve": curve, "validation_accuracy": 90.0}
        >>> steps_to_baseline("default", {0: result}, {0: {**result, "validation_accuracy": 50.0}}, 100, 5.0).median
        55.0
    """
    ends = [r["validation_accuracy"] for r in base.values() if r["status"] == "done"]
    if not (own and ends):
        return None
    target = float(np.mean(ends))
    steps = {seed: _steps(result, target, budget, cost) for seed, result in own.items()}
    times = list(steps.values())
    return Speed(label, target, budget, steps, censored_median(times), median_interval(times))


def hollow(speed: Speed | None, classes: int) -> list[str]:
    """Warn if the baseline hardly learned: then its accuracy is soon reached, and that says nothing.

    Args:
        speed: Of the baseline.
        classes: Of the task.

    Returns:
        At most one sentence.

    Example:
        >>> hollow(Speed("default", 10.9, 100, {0: 0.0}, 0.0, Interval(0.0, 0.0)), classes=10)
        ['default ends at 10.90 % on validation, where guessing has 10.00 %: steps to its accuracy say little here.']
    """
    guess = 100.0 / classes
    if speed is None or speed.target > guess + min(guess, _LEARNED * (100 - guess)):
        return []
    return [
        f"{speed.baseline} ends at {speed.target:.2f} % on validation, where guessing has {guess:.2f} %: "
        "steps to its accuracy say little here."
    ]


def _steps(result: Mapping[str, Any], target: float, budget: int, cost: float) -> float | None:
    if result["status"] != "done":
        return None
    curve = result["curve"]
    found = steps_to([p["step"] for p in curve], [p["accuracy"] for p in curve], target)
    return found + cost if found is not None and found + cost <= budget else None
