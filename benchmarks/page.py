"""Make a study's tables, figure and list of trials from its finished comparisons; the words of its page stay.

python benchmarks/page.py trainability --out docs/results

The study's comparisons are run first: headstart compare benchmarks/STUDY/*.toml, one after the other.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom

from headstart.bench.analysis.analysis import Analysis, ArmSummary, analyse
from headstart.bench.report.summary import cells, span
from headstart.bench.statistics.verdicts import Comparison, compare_family, p_text, signed
from headstart.bench.store.store import Store

COLOURS = ("#8a8a8a", "#b08b2e", "#7a5195", "#3a7d7c", "#5b8fc7", "#1f5fa8", "#c2829a", "#b3541e", "#2b2b2b", "#86a93f")
LEVEL = 1e-3  # at which a test accuracy is above guessing
Found = Mapping[str, Analysis]


@dataclass(frozen=True)
class Study:
    """What a page is made of.

    Args:
        panels: Title of each comparison, by its name.
        draw: Makes the figure.
        learns: Whether to count the seeds that learn anything.
        pairs: Arms to compare with each other, as a family of its own.
        beyond: Whether to compare each method with each of its controls.
        folder: Of its comparisons, if it is not named as the study.
    """

    panels: Mapping[str, str]
    draw: Callable[[Study, Found], Figure]
    learns: bool = False
    pairs: tuple[tuple[str, str], ...] = ()
    beyond: bool = False
    folder: str = ""


def learns(arm: ArmSummary, images: int, classes: int) -> int:
    """Count the seeds whose test accuracy is above what guessing can give."""
    most = 100 * binom.isf(LEVEL, images, 1 / classes) / images
    return sum(accuracy > most for accuracy in arm.accuracies)


def chosen(analysis: Analysis) -> dict[str, str]:
    """Return the learning rate that each arm chose on validation; none without a search."""
    found = (analysis.plan.get("selection") or {}).get("arms", ())
    return {arm["arm"]: f"{arm['tried'][arm['chosen']]['values']['lr']:g}" for arm in found}


def table(analysis: Analysis, study: Study) -> list[str]:
    """Write one comparison's rows."""
    rates, task = chosen(analysis), analysis.plan["task"]
    head = ["start", *(["rate"] if rates else []), *(["seeds that learn"] if study.learns else [])]
    head += ["test accuracy", "difference", "95 % interval", "wins", "p (Holm)", "takes"]
    lines = [f"| {' | '.join(head)} |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for arm in (analysis.baseline, *analysis.methods, *analysis.controls):
        row = cells(arm)
        parts = [f"*{row.label}*" if arm.control else row.label]
        parts += [rates.get(arm.label, rates["default"])] if rates else []
        parts += [f"{learns(arm, task['test_images'], task['classes'])}/{len(arm.results)}"] if study.learns else []
        parts += [row.accuracy, row.difference, row.interval, row.wins, row.p, row.start]
        lines.append(f"| {' | '.join(parts)} |")
    compared = direct(analysis, study)
    if compared:
        lines += ["", "| against each other | difference | 95 % interval | wins | p (Holm) |", "|---|--:|--:|--:|--:|"]
    for c in compared:
        row = (f"{c.arm} − {c.against}", signed(c.mean), span(c.interval), f"{c.wins}/{len(c.seeds)}")
        lines.append(f"| {' | '.join(row)} | {p_text(c.adjusted_p)} |")
    return lines


def direct(analysis: Analysis, study: Study) -> list[Comparison]:
    """Compare arms with each other: a study's pairs, and methods with their controls."""
    accuracies = {
        arm.label: {seed: float(result["test_accuracy"]) for seed, result in arm.results.items()}
        for arm in analysis.arms
    }
    own = compare_family(study.pairs, accuracies, 0.05, 0.5) if study.pairs else []
    return [*own, *(analysis.beyond if study.beyond else ())]


def curves(study: Study, found: Found) -> Figure:
    """Draw the mean validation accuracy over the steps, a panel per comparison."""
    whole = Figure(figsize=(10, 7), layout="constrained")
    for place, (name, analysis) in enumerate(found.items(), start=1):
        axes = whole.add_subplot(2, 2, place)
        for colour, arm in zip(COLOURS, (analysis.baseline, *analysis.methods), strict=False):
            steps, values = arm.curves()
            if not len(values):
                continue
            mean = values.mean(0)
            axes.plot(steps, mean, color=colour, label=arm.label, linewidth=1.8)
            if len(values) > 1:
                error = values.std(0, ddof=1) / np.sqrt(len(values))
                axes.fill_between(steps, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(5, color="black", linewidth=0.7, linestyle=":")
        axes.set_title(study.panels[name], fontsize=11)
        axes.set_xlabel("steps")
        axes.set_ylabel("validation accuracy (%)")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.text(0.99, 4.8, "guessing", fontsize=8, ha="right", va="top", transform=axes.get_yaxis_transform())
    handles, labels = axes.get_legend_handles_labels()
    whole.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return whole


def forest(study: Study, found: Found) -> Figure:
    """Draw each arm's differences from the default start, seed by seed, with their mean and its interval."""
    arms = {name: [arm for arm in analysis.arms if arm.comparison] for name, analysis in found.items()}
    heights = [len(each) for each in arms.values()]
    whole = Figure(figsize=(8, 0.28 * sum(heights) + 0.9 * len(heights)), layout="constrained")
    panels = whole.subplots(len(found), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (name, listed) in zip(panels, arms.items(), strict=True):
        _rows(axes, listed)
        axes.set_title(study.panels[name], fontsize=11, loc="left")
    panels[-1].set_xlabel("test accuracy minus that of the default start with the same seed (points)")
    return whole


def _rows(axes: Axes, arms: list[ArmSummary]) -> None:
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


STUDIES = {
    "trainability": Study(
        {
            "plain20": "plain, 20 layers",
            "plain50": "plain, 50 layers",
            "plain100": "plain, 100 layers",
            "resnet20": "ResNet-20 without batch norm",
        },
        curves,
        learns=True,
    ),
    "clusters": Study(
        {"pairs": "two superclasses of CIFAR-100 that no source saw", "tiny": "Tiny ImageNet at 32×32"},
        forest,
        pairs=(
            ("clusters at the layer's norm", "clusters at their own norm"),
            ("clusters at their own norm", "random at the clusters' norm"),
        ),
    ),
    "samples": Study(
        {
            "cifar100": "CIFAR-100, published rate and schedule",
            "tiny": "Tiny ImageNet at 32×32, published rate and schedule",
            "cifar100-tuned": "CIFAR-100, augmented, cosine schedule, rates searched",
        },
        forest,
        beyond=True,
    ),
    "pre-warm": Study(
        {
            f"prewarm-{data}-{version}": f"{title}, {'as published' if version == 'published' else 'with controls'}"
            for data, title in (("mnist", "MNIST"), ("fashion-mnist", "Fashion-MNIST"), ("cifar100", "CIFAR-100"))
            for version in ("published", "corrected")
        },
        forest,
        beyond=True,
        folder="reproduce/pre-warm-small",
    ),
    "auto": Study(
        {
            "plain20": "plain, 20 layers, no norm",
            "resnet20-without-norm": "ResNet-20 without batch norm",
            "shallow": "plain, 5 layers, no norm",
            "mlp": "linear layers, no norm",
            "small-cnn": "small CNN, batch norm",
            "mobilenet": "MobileNet v1, batch norm",
            "resnet18": "ResNet-18, batch norm",
        },
        forest,
    ),
}


def facts(analysis: Analysis) -> str:
    """Say what was compared, in a line."""
    training, seeds = analysis.plan["training"], len(analysis.plan["seeds"])
    return (
        f"{training['steps']} steps of {training['batch_size']}, {seeds} paired seeds, {analysis.plan['task']['name']}"
    )


def read(folders: Mapping[str, Path]) -> dict[str, Analysis]:
    """Return what those comparisons show that were run, by name."""
    return {name: analyse(Store(folder)) for name, folder in folders.items() if (folder / "experiment.json").exists()}


def published(page: Path) -> list[str]:
    """Return the table of published against measured from the page of a reproduction, if there is one."""
    if not page.exists():
        return []
    rows = page.read_text().split("## Published against measured")[1].split("## ")[0].splitlines()
    return ["", "### Published against measured", "", *(line for line in rows if line.startswith("|"))]


def write_tables(page: Path, lines: list[str]) -> None:
    """Put a page's tables where its marks are; the words around them stay."""
    text = page.read_text()
    head, tail = text.split("<!-- tables -->")[0], text.split("<!-- end -->")[1]
    page.write_text(head + "<!-- tables -->" + "\n".join(lines) + "\n<!-- end -->" + tail)


def write_trials(path: Path, found: Found) -> None:
    """Write a row for each trial."""
    rows = [
        {
            "network": name,
            "arm": arm.label,
            "control": arm.control,
            "seed": seed,
            **{key: result[key] for key in ("status", "test_accuracy", "validation_accuracy", "init_seconds")},
        }
        for name, analysis in found.items()
        for arm in analysis.arms
        for seed, result in sorted(arm.results.items())
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def effort(folder: Path) -> str:
    """Say how many trials a comparison and its search took, and how long they computed."""
    trials = [json.loads(path.read_text())["result"] for path in folder.rglob("trials/*.json")]
    seconds = sum(trial.get("init_seconds", 0) + trial.get("train_seconds", 0) for trial in trials)
    searched = " with those of the search" if (folder / "search").exists() else ""
    return f"{len(trials)} trials{searched}, {seconds / 3600:.1f} hours of one core"


def main() -> None:
    """Read the comparisons that there are, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="has a folder for each study")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    study = STUDIES[args.study]
    folder = args.runs / (study.folder or args.study)
    found = read({name: folder / name for name in study.panels})
    lines = published(folder / "reproduction.md")
    for name, analysis in found.items():
        title = study.panels[name]
        about = f"{facts(analysis)}; {effort(folder / name)}."
        lines += ["", f"### {title[0].upper()}{title[1:]}", "", about, "", *table(analysis, study)]
    page = args.out / f"{args.study}.md"
    write_tables(page, lines)
    study.draw(study, found).savefig(page.with_suffix(".png"), dpi=80)
    write_trials(page.with_suffix(".csv"), found)


if __name__ == "__main__":
    main()
