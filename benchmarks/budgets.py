"""Set each start's accuracy against the training's budget, and count the steps that it takes to the default's accuracy.

python benchmarks/budgets.py --out docs/results

Reads the comparisons of benchmarks/budgets/coarse.toml, one for each budget.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from page import COLOURS, facts, read, write_tables, write_trials

from headstart.bench.analysis.analysis import Analysis
from headstart.bench.report.summary import cells, inert
from headstart.bench.statistics.paired import Interval

BUDGETS = (50, 100, 200, 400, 1600, 3200)
RESAMPLES = 10_000
Floats = NDArray[np.float64]


def accuracies(analysis: Analysis, label: str) -> Floats | None:
    """Return an arm's test accuracies in the order of the seeds; None if the arm is not there."""
    results = {arm.label: arm.results for arm in analysis.arms}.get(label)
    return None if results is None else np.array([float(results[seed]["test_accuracy"]) for seed in sorted(results)])


def steps_to(target: float, steps: Floats, values: Floats) -> float:
    """Return the budget at which an accuracy is reached, by the straight line over the budgets' logarithms.

    Args:
        target: Accuracy to reach.
        steps: Budgets, ascending.
        values: Accuracy at each.

    Returns:
        The budget; NaN if the smallest does better already, infinity if the largest does not reach it.
    """
    if values[0] > target:
        return float("nan")
    for place in range(1, len(steps)):
        low, high = values[place - 1], values[place]
        if high >= target > low or high == low == target:
            share = 1.0 if high == low else (target - low) / (high - low)
            return float(np.exp(np.log(steps[place - 1]) * (1 - share) + np.log(steps[place]) * share))
    return float(steps[0]) if values[0] == target else float("inf")


def share_of_steps(arm: Mapping[int, Floats], default: Mapping[int, Floats], budget: int) -> tuple[float, Interval]:
    """Return the share of a budget in which an arm is where the default start ends, with a bootstrap interval.

    Args:
        arm: Accuracies by budget, seeds in one order.
        default: The same of the default start.
        budget: Where the default start ends.
    """
    steps = np.array(sorted(set(arm) & set(default)), dtype=np.float64)
    pairs = [(arm[int(s)], default[int(s)]) for s in steps]
    at = [int(s) for s in steps].index(budget)
    rng = np.random.default_rng(0)

    def once(drawn: list[NDArray[np.int64]]) -> float:
        values = np.array([a[d].mean() for (a, _), d in zip(pairs, drawn, strict=True)])
        return steps_to(float(pairs[at][1][drawn[at]].mean()), steps, values) / budget

    everyone = [np.arange(len(a)) for a, _ in pairs]
    most = max(map(len, everyone))
    # The same seeds at every budget: they share their default weights and the order of their data.
    shares = [
        once([np.floor(places[: len(e)] * len(e)).astype(np.int64) for e in everyone])
        for places in rng.random((RESAMPLES, most))
    ]
    below = np.nan_to_num(np.array(shares), nan=0.0, posinf=np.inf)  # in less than the smallest budget
    low, high = np.sort(below)[[int(0.025 * RESAMPLES), int(0.975 * RESAMPLES) - 1]]
    return once(everyone), Interval(float(low), float(high))


def percent(share: float, least: float) -> str:
    """Write a share of steps; what is below the smallest budget, or beyond the largest, as such."""
    if np.isinf(share):
        return "not reached"
    return f"< {100 * least:.0f} %" if np.isnan(share) or share < least else f"{100 * share:.0f} %"


def draw(found: Mapping[int, Analysis], labels: list[str]) -> Figure:
    """Draw accuracy, and difference from the default start, over the budget."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, label in zip(COLOURS, labels, strict=False):
        by_budget = {b: values for b, a in found.items() if (values := accuracies(a, label)) is not None}
        steps = list(by_budget)
        left.plot(steps, [np.mean(by_budget[s]) for s in steps], "o-", color=colour, label=label, markersize=4)
        compared = {b: arm.comparison for b, a in found.items() for arm in a.arms if arm.label == label}
        shown = [(b, c) for b, c in compared.items() if c is not None]
        if shown:
            place = [b * 1.03 ** (labels.index(label) - len(labels) / 2) for b, _ in shown]
            error = [[c.mean - c.interval.low for _, c in shown], [c.interval.high - c.mean for _, c in shown]]
            right.errorbar(place, [c.mean for _, c in shown], error, fmt="o-", color=colour, markersize=4, linewidth=1)
    right.axhline(0, color=COLOURS[0], linewidth=1.5)
    _frame(left, "test accuracy (%)")
    _frame(right, "points more than the default start")
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _frame(axes: Axes, what: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks(BUDGETS, map(str, BUDGETS))
    axes.minorticks_off()
    axes.set_xlabel("steps of the whole training")
    axes.set_ylabel(what)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, linewidth=0.6)


def tables(found: Mapping[int, Analysis], labels: list[str]) -> list[str]:
    """Write accuracies, differences and steps, a column per budget."""
    seeds = [len(analysis.plan["seeds"]) for analysis in found.values()]
    head = [f"{b} steps" + (f", {n} seeds" if n != seeds[0] else "") for b, n in zip(found, seeds, strict=True)]
    line = "|---" + "|--:" * len(head) + "|"
    lines = ["", "### Accuracy, and points more than the default start", ""]
    lines += [f"Steps {facts(analysis).partition(' steps ')[2]}." for analysis in list(found.values())[:1]]
    lines += ["", "| start | " + " | ".join(head) + " |", line]
    for label in labels:
        row = []
        for analysis in found.values():
            arm = {arm.label: arm for arm in analysis.arms}.get(label)
            if arm is None:
                row.append("")
                continue
            written = cells(arm)
            p = f", p = {written.p}" if written.p else ""
            more = f": {written.difference} ({written.interval}{p})" if written.difference else ""
            row.append(f"{written.accuracy}{more}")
        lines.append(f"| {inert(label)} | " + " | ".join(row) + " |")
    lines += ["", "### Steps to where the default start ends, as a share of its budget", ""]
    lines += ["| start | " + " | ".join(head) + " |", line]
    values = {label: {b: v for b, a in found.items() if (v := accuracies(a, label)) is not None} for label in labels}
    for label in labels[1:]:
        row = []
        for budget in found:
            if budget not in values[label]:
                row.append("")
                continue
            least = min(values[label]) / budget
            share, interval = share_of_steps(values[label], values[labels[0]], budget)
            ends = f"{percent(interval.low, least)} to {percent(interval.high, least)}"
            row.append(f"{percent(share, least)} ({ends})")
        lines.append(f"| {inert(label)} | " + " | ".join(row) + " |")
    return lines


def main() -> None:
    """Read the comparisons that there are, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/budgets"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    named = read({str(budget): args.runs / f"coarse-{budget}" for budget in BUDGETS})
    found = {int(name): analysis for name, analysis in named.items()}
    labels = [arm.label for arm in next(iter(found.values())).arms]
    page = args.out / "budgets.md"
    write_tables(page, tables(found, labels))
    draw(found, labels).savefig(page.with_suffix(".png"), dpi=80)
    write_trials(page.with_suffix(".csv"), {f"coarse-{budget}": analysis for budget, analysis in found.items()})


if __name__ == "__main__":
    main()
