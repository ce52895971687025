"""The figures of the pages, as far as the committed files hold what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headstart.bench.analysis.analysis import ArmSummary
from pages import budgets, rates, starts
from pages.studies import STUDIES, Study
from pages.trials import Compared, read

COLOURS = ("#8a8a8a", "#b08b2e", "#7a5195", "#3a7d7c", "#5b8fc7", "#1f5fa8", "#c2829a", "#b3541e", "#2b2b2b", "#86a93f")


def of_study(folder: Path, stem: str) -> Figure | None:
    """Draw a study's differences, or its curves if these are what its page shows; None if they are not kept."""
    study, found = STUDIES[stem], read(folder, stem)
    return curves(study, found) if study.learns else forest(study, found)


def of_starts(folder: Path) -> Figure:
    """Draw the differences of all methods on all tasks."""
    return forest(starts.STUDY, read(folder, "starts"))


def curves(study: Study, found: Mapping[str, Compared]) -> Figure | None:
    """Draw the mean validation accuracy over the steps, a panel per comparison."""
    if not all(arm.curves()[0] for compared in found.values() for arm in compared.analysis.arms[:1]):
        return None
    whole = Figure(figsize=(10, 7), layout="constrained")
    for place, (name, compared) in enumerate(found.items(), start=1):
        axes = whole.add_subplot(2, 2, place)
        for colour, arm in zip(COLOURS, (compared.analysis.baseline, *compared.analysis.methods), strict=False):
            steps, values = arm.curves()
            if not len(values):
                continue
            mean = values.mean(0)
            axes.plot(steps, mean, color=colour, label=arm.label, linewidth=1.8)
            if len(values) > 1:
                error = values.std(0, ddof=1) / np.sqrt(len(values))
                axes.fill_between(steps, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.15, linewidth=0)
        guessing = 100 / compared.analysis.plan["task"]["classes"]
        axes.axhline(guessing, color="black", linewidth=0.7, linestyle=":")
        axes.set_title(study.panels[name], fontsize=11)
        axes.set_xlabel("steps")
        axes.set_ylabel("validation accuracy (%)")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.text(0.99, guessing, "guessing", fontsize=8, ha="right", va="top", transform=axes.get_yaxis_transform())
    handles, labels = axes.get_legend_handles_labels()
    whole.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return whole


def forest(study: Study, found: Mapping[str, Compared]) -> Figure:
    """Draw each arm's differences from the default start, seed by seed, with their mean and its interval."""
    arms = {name: [arm for arm in compared.analysis.arms if arm.comparison] for name, compared in found.items()}
    heights = [len(each) for each in arms.values()]
    whole = Figure(figsize=(8, 0.28 * sum(heights) + 0.9 * len(heights)), layout="constrained")
    panels = whole.subplots(len(found), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (name, listed) in zip(panels, arms.items(), strict=True):
        _rows(axes, listed)
        axes.set_title(study.panels[name], fontsize=11, loc="left")
    panels[-1].set_xlabel("test accuracy minus that of the default start with the same seed (points)")
    return whole


def _rows(axes: Axes, arms: Sequence[ArmSummary]) -> None:
    for place, arm in enumerate(arms):
        c = arm.comparison
        assert c is not None
        colour = COLOURS[0] if arm.control else COLOURS[5]
        axes.plot(c.differences, [place] * len(c.differences), ".", color=colour, alpha=0.45, markersize=5)
        if c.interval.bounded:
            axes.plot([c.interval.low, c.interval.high], [place, place], color=colour, linewidth=2.5)
        axes.plot([c.mean], [place], "o", color=colour, markersize=6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(arms)), [arm.label for arm in arms], fontsize=9)
    for label, arm in zip(axes.get_yticklabels(), arms, strict=True):
        label.set_color("#6a6a6a" if arm.control else "black")
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def of_budgets(folder: Path) -> Figure:
    """Draw accuracy, and difference from the default start, over the budget."""
    found = budgets.budgets(folder)
    labels = [arm.label for arm in next(iter(found.values())).analysis.arms]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, label in zip(COLOURS, labels, strict=False):
        values = budgets.by_budget(found, label)
        left.plot(
            list(values), [np.mean(each) for each in values.values()], "o-", color=colour, label=label, markersize=4
        )
        compared = {b: arm.comparison for b, c in found.items() for arm in c.analysis.arms if arm.label == label}
        shown = {b * 1.03 ** (labels.index(label) - len(labels) / 2): c for b, c in compared.items() if c is not None}
        right.plot(list(shown), [c.mean for c in shown.values()], "o-", color=colour, markersize=4, linewidth=1)
        for place, c in shown.items():
            if c.interval.bounded:
                right.plot([place, place], [c.interval.low, c.interval.high], color=colour, linewidth=1)
    right.axhline(0, color=COLOURS[0], linewidth=1.5)
    for axes, what in ((left, "test accuracy (%)"), (right, "points more than the default start")):
        axes.set_xscale("log")
        axes.set_xticks(list(found), map(str, found))
        axes.minorticks_off()
        axes.set_xlabel("steps of the whole training")
        axes.set_ylabel(what)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2, linewidth=0.6)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def of_rates(folder: Path) -> Figure | None:
    """Draw accuracies over learning rates, seed by seed; None if only their means are kept."""
    found = {panel: rates.searched(folder, panel) for panel in rates.PANELS}
    if any(noted for _, noted in found.values()):
        return None
    figure = Figure(figsize=(13, 3.4 * -(-len(found) // 2)), layout="constrained")
    for place, (panel, (curves, _)) in enumerate(found.items(), start=1):
        _curves(figure.add_subplot(-(-len(found) // 2), 2, place), curves, rates.PANELS[panel])
    return figure


def _curves(axes: Axes, found: Mapping[str, rates.Curve], title: str) -> None:
    for colour, (label, curve) in zip(COLOURS, found.items(), strict=False):
        tried = sorted(curve)
        axes.plot(tried, [np.mean(curve[rate]) for rate in tried], "o-", color=colour, label=label, markersize=4)
        for rate in tried:
            axes.plot([rate] * len(curve[rate]), curve[rate], ".", color=colour, alpha=0.4, markersize=4)
    everywhere = sorted({rate for curve in found.values() for rate in curve})
    axes.set_xscale("log")
    axes.set_xticks(everywhere, [f"{rate:g}" for rate in everywhere])
    axes.minorticks_off()
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("validation accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, linewidth=0.6)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
