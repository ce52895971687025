"""Draw each start's validation accuracy over learning rates, from the searches of finished comparisons.

python benchmarks/rates.py --out docs/results

A claim about a start is often a claim about step size: a start that is only better at one rate has changed how far a
step goes. Reads the searches of the studies in benchmarks/trainability, clusters, samples, auto and starts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from page import COLOURS, read, write_tables

from headstart.bench.report.summary import inert

PANELS = {
    "trainability/plain20": "plain, 20 layers, no norm (SGD, 500 steps)",
    "trainability/plain50": "plain, 50 layers, no norm (SGD, 300 steps)",
    "trainability/resnet20": "ResNet-20, no norm (SGD)",
    "auto/shallow": "plain, 5 layers, no norm (SGD)",
    "auto/mlp": "linear layers, no norm, digits (Adam)",
    "starts/small-cnn-pair": "small CNN, batch norm (Adam)",
    "auto/mobilenet": "MobileNet v1, batch norm, first and depthwise layers (AdamW)",
    "auto/resnet18": "ResNet-18, batch norm, first layers (SGD)",
    "clusters/pairs": "ResNet-18, batch norm (SGD)",
    "clusters/tiny": "ResNet-18, batch norm, Tiny ImageNet (SGD)",
    "samples/cifar100-tuned": "MobileNet v1, batch norm (AdamW)",
}
Curve = Mapping[float, list[float]]  # accuracies by learning rate


def curves(plan: Mapping[str, Any]) -> dict[str, Curve]:
    """Return what each arm's search found; controls, which are no starts of their own, apart."""
    arms = {arm["label"] for arm in plan["arms"] if not arm["control"]}
    return {
        found["arm"]: {tried["values"]["lr"]: tried["accuracies"] for tried in found["tried"]}
        for found in plan["selection"]["arms"]
        if found["arm"] in arms
    }


def draw(axes: Axes, found: Mapping[str, Curve], title: str) -> None:
    """Draw one network's arms."""
    for colour, (label, curve) in zip(COLOURS, found.items(), strict=False):
        rates = sorted(rate for rate in curve if curve[rate])
        axes.plot(rates, [np.mean(curve[rate]) for rate in rates], "o-", color=colour, label=label, markersize=4)
        for rate in rates:
            axes.plot([rate] * len(curve[rate]), curve[rate], ".", color=colour, alpha=0.4, markersize=4)
    tried = sorted({rate for curve in found.values() for rate in curve})
    axes.set_xscale("log")
    axes.set_xticks(tried, [f"{rate:g}" for rate in tried])
    axes.minorticks_off()
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("validation accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, linewidth=0.6)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def table(found: Mapping[str, Curve]) -> list[str]:
    """Write a row per arm: accuracies by rate, the best in bold."""
    rates = sorted({rate for curve in found.values() for rate in curve})
    lines = ["| start | " + " | ".join(f"{rate:g}" for rate in rates) + " |", "|---" + "|--:" * len(rates) + "|"]
    for label, curve in found.items():
        means = [float(np.mean(curve[rate])) if curve.get(rate) else float("nan") for rate in rates]
        cells = [f"**{mean:.1f}**" if mean == np.nanmax(means) else f"{mean:.1f}" for mean in means]
        lines.append("| " + " | ".join([inert(label), *cells]) + " |")
    return lines


def main() -> None:
    """Read the searches that there are, and write figure and tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    plans = {name: analysis.plan for name, analysis in read({name: args.runs / name for name in PANELS}).items()}
    columns = 2
    figure = Figure(figsize=(13, 3.4 * -(-len(plans) // columns)), layout="constrained")
    lines: list[str] = []
    for place, (name, plan) in enumerate(plans.items(), start=1):
        found, seeds = curves(plan), plan["selection"]["seeds"]
        draw(figure.add_subplot(-(-len(plans) // columns), columns, place), found, PANELS[name])
        about = (
            f"{plan['task']['name']}, {plan['training']['steps']} steps, {seeds} seed{'s' * (seeds > 1)} for each rate."
        )
        lines += ["", f"### {PANELS[name]}", "", about, "", *table(found)]
    page = args.out / "learning-rates.md"
    write_tables(page, lines)
    figure.savefig(page.with_suffix(".png"), dpi=80)


if __name__ == "__main__":
    main()
