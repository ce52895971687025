"""The page of methods and tasks, whose first table is the README's, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from headstart.bench.analysis.analysis import ArmSummary
from headstart.bench.report.summary import cells
from headstart.bench.statistics.verdicts import Verdict, compare_family, signed
from headstart.results.sheet import inert
from pages.marks import MAIN
from pages.studies import Blocks, Study, sections
from pages.tables import DAGGER, gain, mean_accuracy, same, stated, table
from pages.trials import Compared, read, rows

STUDY = Study(
    {
        "small-cnn-fashion": "small CNN, batch norm · Fashion-MNIST",
        "small-cnn-pair": "small CNN, batch norm · CIFAR-100 pair",
        "mobilenet-tiny": "MobileNet, batch norm · Tiny ImageNet",
        "mobilenet-fashion": "MobileNet, batch norm · Fashion-MNIST",
        "mobilenet-pair": "MobileNet, batch norm · CIFAR-100 pair",
        "mobilenet-v3-pair": "MobileNet v3, batch norm · CIFAR-100 pair",
        "plain-fashion": "20 plain layers, no norm · Fashion-MNIST",
        "resnet-without-norm-pair": "ResNet-20, no norm · CIFAR-100 pair",
        "mlp-fashion": "linear layers, no norm · Fashion-MNIST",
    }
)
LONGER = "starts-equal-cost"
BASELINE, AUTO, DEAREST = "default", "auto", "data-dependent"
REFUSES = "no convolution"
EVERYWHERE = "all"  # in the file of stated values: of all tasks together
Found = Mapping[str, Compared]


def page(folder: Path) -> Blocks:
    """Write the tables of the page."""
    found, longer = read(folder, "starts"), read(folder, LONGER)
    lines = [*matrix(folder, found), "", *against(found), "", *equal_cost(found, longer), "", *steps_to_default(found)]
    lines += sections(found, STUDY)
    return {MAIN: [*lines, *stated(lines)]}


def readme(folder: Path) -> Blocks:
    """Write the README's table."""
    lines = matrix(folder, read(folder, "starts"))
    return {MAIN: [*lines, *stated(lines)]}


def arms(compared: Compared) -> dict[str, ArmSummary]:
    """Return a comparison's arms by label."""
    return {arm.label: arm for arm in compared.analysis.arms}


def labels(found: Found) -> list[str]:
    """List the methods of all comparisons."""
    return list(dict.fromkeys(arm.label for compared in found.values() for arm in compared.analysis.methods))


def cell(compared: Compared, label: str) -> str:
    """Write an arm's gain with its interval: in bold what the test tells from chance, and of whom it is a twin."""
    arm = arms(compared).get(label)
    if arm is None or arm.comparison is None or not arm.comparison.seeds:
        return REFUSES
    text = gain(arm.comparison)
    if arm.comparison.verdict in (Verdict.HELPS, Verdict.HURTS):
        text = f"**{text}**"
    before = [other.label for other in compared.analysis.arms[: compared.analysis.arms.index(arm)]]
    twin = same(compared.analysis.arms, label)
    return f"{text} = {inert(twin)}" if twin and (twin == BASELINE or twin not in before) else text


def gains(found: Found, label: str, other: str = BASELINE) -> list[float]:
    """Return an arm's mean difference from another by task; an arm that refuses a task is the default there."""
    means = []
    for compared in found.values():
        by_label = arms(compared)
        one, two = (mean_accuracy(_or_default(by_label, name)) for name in (label, other))
        means.append(one - two if abs(one - two) > 1e-9 else 0.0)
    return means


def _or_default(by_label: Mapping[str, ArmSummary], label: str) -> ArmSummary:
    arm = by_label.get(label)
    return arm if arm is not None and arm.results else by_label[BASELINE]


def ahead(means: Sequence[float]) -> str:
    """Write in how many tasks a difference is above, and in how many below zero.

    Example:
        >>> ahead([0.5, 0.0, -1.0, 2.0])
        '2 / 1'
    """
    return f"{sum(mean > 0 for mean in means)} / {sum(mean < 0 for mean in means)}"


def matrix(folder: Path, found: Found) -> list[str]:
    """Write a row per task and a column per method."""
    methods = labels(found)
    lines = [
        [
            STUDY.panels[name],
            f"{mean_accuracy(compared.analysis.baseline):.1f} %",
            *(cell(compared, label) for label in methods),
        ]
        for name, compared in found.items()
    ]
    means = [gains(found, label) for label in methods]
    lines.append(["median", "", *(signed(float(np.median(each))) for each in means)])
    lines.append([f"tasks ahead of / behind the default (of {len(found)})", "", *map(ahead, means)])
    timed = all("step_seconds" in compared.kept for compared in found.values())
    shares = [_shares(found, label) for label in methods] if timed else _stated_shares(folder, methods)
    lines.append([f"the start's time, of the training's{'' if timed else DAGGER}", "", *shares])
    return table(["network · data", "default", *map(inert, methods)], lines)


def _shares(found: Found, label: str) -> str:
    """Write what a start costs, as the least and the largest share of a training over tasks."""
    shares = [
        100 * arm.init_steps / compared.analysis.plan["training"]["steps"]
        for compared in found.values()
        if (arm := arms(compared).get(label)) is not None and arm.results
    ]
    low, high = (f"{share:.0f}" if share >= 10 else f"{share:.1f}" for share in (min(shares), max(shares)))
    return f"{low} to {high} %"


def _stated_shares(folder: Path, methods: Sequence[str]) -> list[str]:
    known = {
        row["arm"]: row["start_share"] for row in rows(folder / "starts-stated.csv") if row["network"] == EVERYWHERE
    }
    return [known[label] for label in methods]


def against(found: Found) -> list[str]:
    """Write auto minus each other method, over all tasks."""
    others = [label for label in labels(found) if label != AUTO]
    means = [gains(found, AUTO, label) for label in others]
    lines = [
        ["median over tasks", *(signed(float(np.median(each))) for each in means)],
        [f"tasks ahead / behind (of {len(found)})", *map(ahead, means)],
    ]
    return table(["auto minus", *map(inert, others)], lines)


def equal_cost(found: Found, longer: Found) -> list[str]:
    """Write auto minus the data-dependent start, where auto trains for the time that the other's start takes more."""
    lines, means = [], []
    for name, compared in longer.items():
        pair = (f"longer {AUTO}", DEAREST)
        results = (arms(compared)[AUTO].results, arms(found[name])[DEAREST].results)
        accuracies = {
            label: {seed: float(result["test_accuracy"]) for seed, result in own.items()}
            for label, own in zip(pair, results, strict=True)
        }
        (c,) = compare_family([pair], accuracies, compared.analysis.plan["alpha"], compared.analysis.plan["margin"])
        means.append(c.mean)
        lines.append([STUDY.panels[name], compared.facts["steps"], found[name].facts["steps"], gain(c)])
    lines.append(["median", "", "", signed(float(np.median(means)))])
    lines.append([f"tasks ahead / behind (of {len(means)})", "", "", ahead(means)])
    return table(["network · data", "steps of auto", "of data-dependent", "auto minus data-dependent"], lines)


def steps_to_default(found: Found) -> list[str]:
    """Write the share of the steps after which auto is where the default start ends, on validation.

    Where the curves are there, the default's own share stands beside it.
    """
    own = {name: cells(arms(compared)[AUTO]).speed for name, compared in found.items()}
    if all(own.values()):
        head = ["network · data", "auto: share of the steps, seeds that get there", "default"]
        lines = [[STUDY.panels[name], own[name], cells(c.analysis.baseline).speed] for name, c in found.items()]
    else:
        head = ["network · data", f"share of the steps, seeds that get there{DAGGER}"]
        lines = [[STUDY.panels[name], c.stated[AUTO]["steps_to_default"]] for name, c in found.items()]
    return table(head, lines)
