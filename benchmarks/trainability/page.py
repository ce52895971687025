"""Make the page, the figure and the table of trials of the trainability study from its finished comparisons.

for name in plain20 plain50 plain100 resnet20; do headstart compare benchmarks/trainability/$name.toml; done
python benchmarks/trainability/page.py --out docs/results
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binom

from headstart.bench.analysis import Analysis, ArmSummary, analyse
from headstart.bench.store import Store
from headstart.bench.summary import cells

NETWORKS = {
    "plain20": "plain, 20 layers",
    "plain50": "plain, 50 layers",
    "plain100": "plain, 100 layers",
    "resnet20": "ResNet-20 without batch norm",
}
COLOURS = ("#8a8a8a", "#b08b2e", "#7a5195", "#3a7d7c", "#5b8fc7", "#1f5fa8", "#c2829a", "#b3541e")
LEVEL = 1e-3  # at which a test accuracy is above guessing


def learns(arm: ArmSummary, images: int, classes: int) -> int:
    """Count the seeds whose test accuracy is above what guessing can give."""
    most = 100 * binom.isf(LEVEL, images, 1 / classes) / images
    return sum(accuracy > most for accuracy in arm.accuracies)


def chosen(analysis: Analysis) -> dict[str, str]:
    """Return the learning rate that each arm chose on validation."""
    found = analysis.plan["selection"]["arms"]
    return {arm["arm"]: f"{arm['tried'][arm['chosen']]['values']['lr']:g}" for arm in found}


def table(analysis: Analysis, images: int, classes: int) -> list[str]:
    """Write one network's rows."""
    rates = chosen(analysis)
    lines = [
        "| start | rate | seeds that learn | test accuracy | difference | 95 % interval | wins | p (Holm) | takes |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for arm in (analysis.baseline, *analysis.methods, *analysis.controls):
        row = cells(arm)
        label = f"*{row.label}*" if arm.control else row.label
        rate = rates.get(arm.label, rates["default"])
        seeds = f"{learns(arm, images, classes)}/{len(arm.results)}"
        parts = (label, rate, seeds, row.accuracy, row.difference, row.interval, row.wins, row.p, row.start)
        lines.append(f"| {' | '.join(parts)} |")
    return lines


def figure(found: dict[str, Analysis]) -> Figure:
    """Draw the mean validation accuracy over the steps, a panel per network."""
    whole = Figure(figsize=(10, 7), layout="constrained")
    for place, (name, analysis) in enumerate(found.items(), start=1):
        axes = whole.add_subplot(2, 2, place)
        for colour, arm in zip(COLOURS, (analysis.baseline, *analysis.methods), strict=True):
            steps, curves = arm.curves()
            if not len(curves):
                continue
            mean = curves.mean(0)
            axes.plot(steps, mean, color=colour, label=arm.label, linewidth=1.8)
            if len(curves) > 1:
                error = curves.std(0, ddof=1) / np.sqrt(len(curves))
                axes.fill_between(steps, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(5, color="black", linewidth=0.7, linestyle=":")
        axes.set_title(NETWORKS[name], fontsize=11)
        axes.set_xlabel("steps")
        axes.set_ylabel("validation accuracy (%)")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.text(0.99, 4.8, "guessing", fontsize=8, ha="right", va="top", transform=axes.get_yaxis_transform())
    handles, labels = axes.get_legend_handles_labels()
    whole.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return whole


def facts(analysis: Analysis) -> str:
    """Say what was compared, in a line."""
    training, seeds = analysis.plan["training"], len(analysis.plan["seeds"])
    return (
        f"{training['steps']} steps of {training['batch_size']}, {seeds} paired seeds, {analysis.plan['task']['name']}"
    )


def main() -> None:
    """Read the comparisons that there are, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/trainability"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = {name: analyse(Store(args.runs / name)) for name in NETWORKS}
    lines: list[str] = []
    rows: list[dict[str, object]] = []
    for name, analysis in found.items():
        task = analysis.plan["task"]
        lines += ["", f"### {NETWORKS[name][0].upper()}{NETWORKS[name][1:]}", "", f"{facts(analysis)}.", ""]
        lines += table(analysis, task["test_images"], task["classes"])
        for arm in analysis.arms:
            for seed, result in sorted(arm.results.items()):
                kept = {key: result[key] for key in ("status", "test_accuracy", "validation_accuracy", "init_seconds")}
                rows.append({"network": name, "arm": arm.label, "control": arm.control, "seed": seed, **kept})
    page = args.out / "trainability.md"
    text = page.read_text()
    head, tail = text.split("<!-- tables -->")[0], text.split("<!-- end -->")[1]
    page.write_text(head + "<!-- tables -->" + "\n".join(lines) + "\n<!-- end -->" + tail)
    figure(found).savefig(args.out / "trainability.png", dpi=80)
    with (args.out / "trainability.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
