"""The name of a score, its better direction, and how its numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_SHARE = 0.005  # of the baseline's mean: the smallest difference that matters, unless another one was named


@dataclass(frozen=True)
class Metric:
    """A score.

    Args:
        name: What it is called.
        lower_is_better: Whether a lower score is better. Then a difference is the baseline's score minus the
            arm's: whatever the metric, a difference above zero is a gain.
        scale: The factor with which scores are shown: 100 for shares, which are shown in percent.
        unit: The unit of a difference.
        digits: The number of digits after the decimal point.
        own: Whether it is the score of headstart's own loop, whose steps and curves are known.
        guess: The score of guessing, if it is known.

    Example:
        >>> Metric().difference(-0.5), Metric().value(97.5), Metric("loss", digits=4, unit="").difference(0.01)
        ('−0.50 points', '97.50 %', '+0.0100')
    """

    name: str = "test accuracy"
    lower_is_better: bool = False
    scale: float = 1.0
    unit: str = "points"
    digits: int = 2
    own: bool = False
    guess: float | None = None

    @property
    def short(self) -> str:
        """The name without the split."""
        return self.name.removeprefix("test ")

    def number(self, value: float) -> str:
        """Write a score's number without a unit."""
        return f"{value:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """Write a difference's number with a sign and a true minus."""
        return f"{value:+.{self.digits}f}".replace("-", "\u2212")

    def value(self, value: float) -> str:
        """Write a score with its unit."""
        return f"{self.number(value)} %" if self.unit == "points" else self.number(value)

    def amount(self, value: float) -> str:
        """Write the size of a difference with its unit."""
        return f"{self.number(value)} {self.unit}".rstrip()

    def difference(self, value: float) -> str:
        """Write a difference with its unit."""
        return f"{self.signed(value)} {self.unit}".rstrip()


def metric_of(plan: Mapping[str, Any], baseline: Iterable[float]) -> tuple[Metric, float]:
    """Read the score of an experiment, and the smallest difference that matters.

    If higher is better and all scores of the baseline are between 0 and 1, they are taken as shares and
    shown in percent. Without a margin, half a percent of the baseline's mean matters.

    Args:
        plan: As an experiment stores it; without a metric it is accuracy in percent.
        baseline: The baseline's scores.

    Returns:
        The metric, and the margin in its displayed unit.

    Example:
        >>> metric, margin = metric_of({"metric": {"name": "dice", "lower_is_better": False}, "margin": 0}, [0.8, 0.8])
        >>> metric.scale, margin
        (100.0, 0.4)
    """
    margin = float(plan["margin"])
    told = plan.get("metric")
    if told is None:
        return own_metric(plan["task"]), margin
    scores = [abs(score) for score in baseline]
    share = bool(scores) and not told["lower_is_better"] and max(scores) <= 1
    scale = 100.0 if share else 1.0
    margin = scale * (margin or _SHARE * (sum(scores) / len(scores) if scores else 1.0)) or 0.5
    margin = float(f"{margin:.2g}")
    digits = max(2, 1 - math.floor(math.log10(margin)))
    return Metric(str(told["name"]), bool(told["lower_is_better"]), scale, "points" if share else "", digits), margin


def own_metric(task: Mapping[str, Any]) -> Metric:
    """Return the score of headstart's own loop.

    Args:
        task: As an experiment stores it; without a ``score`` it is accuracy.

    Example:
        >>> own_metric({"classes": 4}).guess, own_metric({"classes": 4, "score": "Dice", "guess": 0.0}).name
        (25.0, 'test Dice')
    """
    if "score" not in task:
        return Metric(own=True, guess=100.0 / task["classes"])
    unit = "points" if task.get("percent", True) else ""
    return Metric(f"test {task['score']}", unit=unit, own=True, guess=task.get("guess"))


ACCURACY = Metric(own=True)
"""Accuracy in percent, the usual score of headstart's own loop."""
SCORE = Metric("score", unit="")
"""Any score, of which nothing is known."""
