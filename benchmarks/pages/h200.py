"""The page of what was measured on an H200: differences seed by seed, steps to the default's accuracy, costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headstart.bench.analysis.analysis import ArmSummary
from headstart.bench.report.summary import cells
from headstart.bench.statistics.verdicts import signed
from headstart.results.sheet import inert
from pages.marks import MAIN
from pages.studies import Blocks
from pages.tables import DAGGER, mean_accuracy, table, takes
from pages.trials import Compared, read, rows

PANELS = {
    "prewarm-cnn-cifar100-5000steps": "Pre-Warm's CNN, CIFAR-100, 5,000 steps of 256",
    "resnet20-cifar100coarse5000-60epochs": "CIFAR ResNet-20, 5,000 images of CIFAR-100's superclasses, 60 epochs",
}
NOTED = f"{DAGGER} Noted when it was measured; the single turns were not kept, so these columns cannot be recomputed."


def page(folder: Path) -> Blocks:
    """Write the tables of the page."""
    own = folder / "h200"
    lines: list[str] = []
    for stem, title in PANELS.items():
        compared = read(own, stem)[stem]
        lines += ["", f"### {title}", "", *differences(compared)]
    return {MAIN: lines[1:], "costs": [*costs(own), "", NOTED], "other": [*other(own), "", NOTED]}


def differences(compared: Compared) -> list[str]:
    """Write each seed's difference from the default start: so few give no interval and no verdict."""
    seeds, arms = compared.analysis.plan["seeds"], compared.analysis.arms
    curved = any(arm.speed for arm in arms)
    head = ["start", "test accuracy", *(f"seed {seed}" for seed in seeds), "mean difference", "better in", "takes"]
    head += ["steps to default's accuracy"] if curved else []
    lines = []
    for arm in arms:
        line = [inert(arm.label), f"{mean_accuracy(arm):.2f}", *_by_seed(arm, seeds), takes(compared, arm)]
        lines.append(line + ([cells(arm).speed] if curved else []))
    return table(head, lines)


def _by_seed(arm: ArmSummary, seeds: list[int]) -> list[str]:
    c = arm.comparison
    if c is None:
        return [""] * (len(seeds) + 2)
    found = dict(zip(c.seeds, c.differences, strict=True))
    each = [signed(found[seed]) if seed in found else "not run" for seed in seeds]
    return [*each, signed(float(np.mean(c.differences))), f"{c.wins}/{len(c.seeds)}"]


def costs(own: Path) -> list[str]:
    """Write what starts cost in forward passes, and what memory they take."""
    columns = [
        "forward",
        "within-layer",
        "LSUV",
        "within-layer and balance",
        "`auto`",
        "peak memory: forward",
        "within",
    ]
    lines = [
        [
            row["network"],
            f"{row['forward_ms']} ms",
            *(f"{row[name]} ×" for name in ("within_layer", "lsuv", "within_and_balance", "auto")),
            *(f"{row[name]} MB" for name in ("forward_mb", "within_mb")),
        ]
        for row in rows(own / "costs-stated.csv")
    ]
    return table(["network", *(f"{name}{DAGGER}" for name in columns)], lines)


def other(own: Path) -> list[str]:
    """Write what else was noted, in words."""
    return table(
        ["what", f"measured{DAGGER}"],
        [[row["what"], row["measured"]] for row in rows(own / "other-stated.csv")],
        text=2,
    )
