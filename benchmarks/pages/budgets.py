"""The page of accuracy against the training's budget, and of the steps to the default's accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart.bench.report.summary import NO_INTERVAL, cells
from headstart.bench.statistics.paired import Interval
from headstart.results.sheet import inert
from pages.marks import MAIN
from pages.studies import Blocks
from pages.tables import facts, table, unbounded
from pages.trials import Compared, read

RESAMPLES = 10_000
LEAST_SEEDS = 6  # from which on an interval is given
Floats = NDArray[np.float64]
Found = Mapping[int, Compared]


def budgets(folder: Path) -> dict[int, Compared]:
    """Return the comparisons by the steps that they train."""
    return {int(compared.facts["steps"]): compared for compared in read(folder, "budgets").values()}


def page(folder: Path) -> Blocks:
    """Write accuracies, differences and steps, a column per budget."""
    found = budgets(folder)
    labels = [arm.label for arm in next(iter(found.values())).analysis.arms]
    seeds = [len(compared.analysis.plan["seeds"]) for compared in found.values()]
    columns = [f"{b} steps" + (f", {n} seeds" if n != seeds[0] else "") for b, n in zip(found, seeds, strict=True)]
    about = facts(next(iter(found.values()))).partition(" steps ")[2]
    lines = ["### Accuracy, and points more than the default start", "", f"Steps {about}", ""]
    lines += table(["start", *columns], [[inert(a), *(_cell(c, a) for c in found.values())] for a in labels])
    lines += ["", "### Steps to where the default start ends, as a share of its budget", ""]
    lines += table(["start", *columns], [[inert(a), *shares(found, labels[0], a)] for a in labels[1:]])
    return {MAIN: [*lines, *unbounded(lines, min(seeds))]}


def _cell(compared: Compared, label: str) -> str:
    arm = {arm.label: arm for arm in compared.analysis.arms}.get(label)
    if arm is None:
        return ""
    written, c = cells(arm), arm.comparison
    if c is None:
        return written.accuracy
    return f"{written.accuracy}: {written.difference} ({written.interval}, p = {written.p})"


def accuracies(compared: Compared, label: str) -> Floats | None:
    """Return an arm's test accuracies in the order of the seeds; None if the arm is not there."""
    results = {arm.label: arm.results for arm in compared.analysis.arms}.get(label)
    return None if results is None else np.array([float(results[seed]["test_accuracy"]) for seed in sorted(results)])


def by_budget(found: Found, label: str) -> dict[int, Floats]:
    """Return an arm's test accuracies at each budget that it was trained for."""
    return {b: values for b, compared in found.items() if (values := accuracies(compared, label)) is not None}


def shares(found: Found, default: str, label: str) -> list[str]:
    """Write the share of each budget in which an arm is where the default start ends."""
    own, base = by_budget(found, label), by_budget(found, default)
    written = []
    for budget in found:
        if budget not in own:
            written.append("")
            continue
        least = min(own) / budget
        share, interval = share_of_steps(own, base, budget)
        ends = (
            f"{percent(interval.low, least)} to {percent(interval.high, least)}" if interval.low >= 0 else NO_INTERVAL
        )
        written.append(f"{percent(share, least)} ({ends})")
    return written


def share_of_steps(arm: Mapping[int, Floats], default: Mapping[int, Floats], budget: int) -> tuple[float, Interval]:
    """Return the share of a budget in which an arm is where the default start ends, with a bootstrap interval.

    Args:
        arm: Accuracies by budget, seeds in one order.
        default: The same of the default start.
        budget: Where the default start ends.

    Returns:
        The share and its interval, without ends if the budget has too few seeds.
    """
    steps = np.array(sorted(set(arm) & set(default)), dtype=np.float64)
    pairs = [(arm[int(s)], default[int(s)]) for s in steps]
    at = [int(s) for s in steps].index(budget)
    # The same seeds at every budget: they share their default weights and the order of their data.
    places = np.random.default_rng(0).random((RESAMPLES, max(len(own) for own, _ in pairs)))

    def once(drawn: list[NDArray[np.int64]]) -> Floats:
        values = np.stack([own[d].mean(axis=-1) for (own, _), d in zip(pairs, drawn, strict=True)], axis=-1)
        return steps_to(pairs[at][1][drawn[at]].mean(axis=-1), steps, values) / budget

    share = float(once([np.arange(len(own))[None] for own, _ in pairs])[0])
    if len(arm[budget]) < LEAST_SEEDS:
        return share, Interval(-np.inf, np.inf)
    drawn = [np.floor(places[:, : len(own)] * len(own)).astype(np.int64) for own, _ in pairs]
    below = np.nan_to_num(once(drawn), nan=0.0, posinf=np.inf)  # in less than the smallest budget
    low, high = np.sort(below)[[int(0.025 * RESAMPLES), int(0.975 * RESAMPLES) - 1]]
    return share, Interval(float(low), float(high))


def steps_to(targets: Floats, steps: Floats, values: Floats) -> Floats:
    """Return the budgets at which accuracies are reached, by the straight line over the budgets' logarithms.

    Args:
        targets: Accuracies to reach, ``(draws,)``.
        steps: Budgets, ascending.
        values: Accuracy at each, ``(draws, budgets)``.

    Returns:
        The budgets; NaN where the smallest does better already, infinity where the largest does not reach it.

    Example:
        >>> steps_to(np.array([5.0, 9.0]), np.array([100.0, 400.0]), np.array([[4.0, 6.0], [4.0, 6.0]])).round()
        array([200.,  inf])
    """
    found = np.full(len(targets), np.inf)
    for place in range(len(steps) - 1, 0, -1):  # the first crossing is written last
        low, high = values[:, place - 1], values[:, place]
        crosses = (high >= targets) & (targets > low)
        share = (targets - low) / np.where(crosses, high - low, 1.0)
        line = np.exp(np.log(steps[place - 1]) * (1 - share) + np.log(steps[place]) * share)
        found = np.where(crosses, line, found)
    found = np.where(values[:, 0] == targets, steps[0], found)
    return np.where(values[:, 0] > targets, np.nan, found)


def percent(share: float, least: float) -> str:
    """Write a share of steps; what is below the smallest budget, or beyond the largest, as such."""
    if np.isinf(share):
        return "not reached"
    return f"< {100 * least:.0f} %" if np.isnan(share) or share < least else f"{100 * share:.0f} %"
