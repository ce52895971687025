"""Make the table of methods and tasks, for its page and for the README.

python benchmarks/starts.py --out docs/results --readme README.md

Reads the comparisons of benchmarks/starts/*.toml, and those in which auto trained for as many more steps as a
data-dependent start costs more.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from page import Study, effort, facts, forest, read, table, write_tables, write_trials

from headstart.bench.analysis.analysis import Analysis, ArmSummary
from headstart.bench.report.summary import cells, inert, span
from headstart.bench.statistics.paired import stratified_mean
from headstart.bench.statistics.verdicts import Verdict, compare_family, signed

TASKS = {
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
BASELINE, AUTO, DEAREST = "default", "auto", "data-dependent"
REFUSES = "no convolution"
Found = Mapping[str, Analysis]


def arms(analysis: Analysis) -> dict[str, ArmSummary]:
    """Return a comparison's arms by label."""
    return {arm.label: arm for arm in analysis.arms}


def cell(arm: ArmSummary | None) -> str:
    """Write an arm's gain with its interval; in bold what the test tells from chance."""
    if arm is None or arm.comparison is None or not arm.comparison.seeds:
        return REFUSES
    c = arm.comparison
    text = f"{signed(c.mean)} ({span(c.interval)})"
    return f"**{text}**" if c.verdict in (Verdict.HELPS, Verdict.HURTS) else text


def differences(found: Found, label: str, against: str) -> list[list[float]]:
    """Return one arm's accuracy minus another's, by task and seed; an arm that refuses a task is the default there."""
    strata = []
    for analysis in found.values():
        by_label = arms(analysis)
        base = by_label[BASELINE].results
        one, other = (by_label[name].results if name in by_label else base for name in (label, against))
        pairs = [(one.get(seed) or base[seed], other.get(seed) or base[seed]) for seed in base]
        strata.append([float(a["test_accuracy"]) - float(b["test_accuracy"]) for a, b in pairs])
    return strata


def mean(found: Found, label: str, against: str = BASELINE) -> str:
    """Write the mean over tasks of an arm's accuracy minus another's, with its interval."""
    over = stratified_mean(differences(found, label, against))
    return f"{signed(over.mean)} ({span(over.interval)})"


def takes(found: Found, label: str) -> str:
    """Write what a start costs, as the least and the largest share of a training over tasks."""
    shares = []
    for analysis in found.values():
        arm = arms(analysis).get(label)
        if arm is not None and arm.results:
            shares.append(100 * arm.init_steps / analysis.plan["training"]["steps"])
    low, high = (f"{share:.0f}" if share >= 10 else f"{share:.1f}" for share in (min(shares), max(shares)))
    return f"{low} to {high} %"


def matrix(found: Found) -> list[str]:
    """Write a row per task and a column per method."""
    labels = list(dict.fromkeys(arm.label for a in found.values() for arm in a.methods))
    lines = [row("network · data", "default", *map(inert, labels)), "|---" + "|--:" * (len(labels) + 1) + "|"]
    for name, analysis in found.items():
        by_label = arms(analysis)
        base = np.mean([float(r["test_accuracy"]) for r in by_label[BASELINE].results.values()])
        lines.append(row(TASKS[name], f"{base:.1f} %", *(cell(by_label.get(label)) for label in labels)))
    lines.append(row("mean", "", *(mean(found, label) for label in labels)))
    return [*lines, row("the start's time, of the training's", "", *(takes(found, label) for label in labels))]


def row(*parts: str) -> str:
    """Write a row of a table."""
    return "| " + " | ".join(parts) + " |"


def against(found: Found) -> list[str]:
    """Write auto minus each other method, over all tasks."""
    labels = [label for label in dict.fromkeys(arm.label for a in found.values() for arm in a.methods) if label != AUTO]
    lines = [row("auto minus", *map(inert, labels)), "|---" + "|--:" * len(labels) + "|"]
    return [*lines, row("mean over tasks", *(mean(found, AUTO, label) for label in labels))]


def equal_cost(found: Found, longer: Found) -> list[str]:
    """Write auto minus the data-dependent start, where auto trains for the time that the other's start takes more."""
    lines = [
        row("network · data", "steps of auto", "of data-dependent", "auto minus data-dependent"),
        "|---|--:|--:|--:|",
    ]
    strata = []
    for name, analysis in longer.items():
        pair = (f"longer {AUTO}", DEAREST)
        arm_results = (arms(analysis)[AUTO].results, arms(found[name])[DEAREST].results)
        accuracies = {
            label: {seed: float(result["test_accuracy"]) for seed, result in results.items()}
            for label, results in zip(pair, arm_results, strict=True)
        }
        (compared,) = compare_family([pair], accuracies, alpha=0.05, margin=0.5)
        strata.append(list(compared.differences))
        steps = (str(one.plan["training"]["steps"]) for one in (analysis, found[name]))
        lines.append(row(TASKS[name], *steps, f"{signed(compared.mean)} ({span(compared.interval)})"))
    over = stratified_mean(strata)
    return [*lines, row("mean", "", "", f"{signed(over.mean)} ({span(over.interval)})")]


def steps_to_default(found: Found) -> list[str]:
    """Write the share of the steps after which auto is where the default start ends, on validation."""
    lines = [row("network · data", "share of the steps, seeds that get there"), "|---|--:|"]
    return [*lines, *(row(TASKS[name], cells(arms(analysis)[AUTO]).speed) for name, analysis in found.items())]


def main() -> None:
    """Read the comparisons that there are, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/starts"))
    parser.add_argument("--longer", type=Path, default=Path("runs/equal-cost"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--readme", type=Path)
    args = parser.parse_args()
    found = read({name: args.runs / name for name in TASKS})
    longer = read({name: args.longer / name for name in TASKS})
    study = Study(TASKS, forest)
    lines = ["", *matrix(found), "", *against(found), "", *equal_cost(found, longer), "", *steps_to_default(found)]
    for name, analysis in found.items():
        lines += [
            "",
            f"### {TASKS[name]}",
            "",
            f"{facts(analysis)}; {effort(args.runs / name)}.",
            "",
            *table(analysis, study),
        ]
    page = args.out / "starts.md"
    write_tables(page, lines)
    forest(study, found).savefig(page.with_suffix(".png"), dpi=80)
    write_trials(page.with_suffix(".csv"), found)
    write_trials(args.out / "starts-equal-cost.csv", longer)
    if args.readme:
        write_tables(args.readme, ["", *matrix(found)])


if __name__ == "__main__":
    main()
