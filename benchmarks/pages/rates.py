"""The page of each start's validation accuracy over learning rates, from the searches of other pages' comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headstart.results.sheet import inert
from pages.marks import MAIN
from pages.studies import Blocks
from pages.tables import DAGGER, stated, table
from pages.trials import rows

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
Curve = dict[float, list[float]]  # accuracies by learning rate


def searched(folder: Path, panel: str) -> tuple[dict[str, Curve], bool]:
    """Return what each arm's search found, and whether it is stated as means or has its trials."""
    study, name = panel.split("/")
    trials = [row for row in rows(folder / f"{study}-search.csv") if row["network"] == name]
    means = [row for row in rows(folder / "learning-rates-stated.csv") if row["comparison"] == panel]
    found: dict[str, Curve] = {}
    for row in trials or means:
        found.setdefault(row["arm"], {}).setdefault(float(row["rate"]), []).append(float(row["accuracy"]))
    return found, not trials


def means(found: Mapping[str, Curve], noted: bool) -> list[str]:
    """Write a row per arm: accuracies by rate, the best in bold."""
    rates = sorted({rate for curve in found.values() for rate in curve})
    lines = []
    for label, curve in found.items():
        values = [float(np.mean(curve[rate])) if rate in curve else float("nan") for rate in rates]
        best = np.nanmax(values)
        lines.append([inert(label), *(f"**{mean:.1f}**" if mean == best else f"{mean:.1f}" for mean in values)])
    return table(["start", *(f"{rate:g}{DAGGER if noted else ''}" for rate in rates)], lines)


def page(folder: Path) -> Blocks:
    """Write a table for each comparison."""
    lines: list[str] = []
    for panel, title in PANELS.items():
        study, name = panel.split("/")
        (facts,) = (row for row in rows(folder / f"{study}-facts.csv") if row["network"] == name)
        seeds = int(facts["search_seeds"])
        about = f"{facts['task']}, {facts['steps']} steps, {seeds} seed{'s' * (seeds > 1)} for each rate."
        lines += ["", f"### {title}", "", about, "", *means(*searched(folder, panel))]
    return {MAIN: [*lines[1:], *stated(lines)]}
