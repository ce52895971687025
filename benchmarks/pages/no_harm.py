"""The page that shows auto against each network's own start after a few steps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from headstart.results.sheet import inert
from pages.marks import MAIN
from pages.studies import Blocks
from pages.tables import table
from pages.trials import rows

FLOOR = 0.02  # nats: below, both have learnt the task, and no accuracy hangs on it
SURE = 3.0  # standard errors of the mean difference
MANY = 9  # seeds that tell a network's own noise
Runs = Mapping[int, tuple[float, float]]  # by seed: the loss from the network's own start, and from auto's


def paired(folder: Path) -> tuple[dict[str, dict[int, tuple[float, float]]], dict[str, int], dict[str, float]]:
    """Losses by network and seed, layers written, and how much accuracy auto gains."""
    losses: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    right: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    written: dict[str, int] = {}
    for row in rows(folder / "no-harm.csv"):
        name, arm = row["network"], row["arm"]
        if arm == "auto":
            written[name] = int(row["written"])
        if row["loss"]:
            losses[name][int(row["seed"])][arm] = float(row["loss"])
            right[name][arm].append(float(row["accuracy"]))
    both = {
        name: {seed: (two["default"], two["auto"]) for seed, two in sorted(by_seed.items()) if len(two) == 2}
        for name, by_seed in losses.items()
    }
    gain = {n: _mean(arms["auto"]) - _mean(arms["default"]) for n, arms in right.items() if len(arms) == 2}
    return {name: runs for name, runs in both.items() if len(runs) > 1}, written, gain


def noise(found: Mapping[str, Runs]) -> float:
    """The deviation of differences between seeds, pooled over all networks."""
    squares, free = 0.0, 0
    for runs in found.values():
        differences = [auto - default for default, auto in runs.values()]
        mean = _mean(differences)
        squares += sum((d - mean) ** 2 for d in differences)
        free += len(differences) - 1
    return math.sqrt(squares / max(free, 1))


def verdict(runs: Runs, pooled: float) -> str:
    """``better`` or ``worse`` beyond noise, or nothing.

    The noise is a network's own. With few seeds, which tell little of it, it is no less than half of what all have on
    average.
    """
    differences = [auto - default for default, auto in runs.values()]
    mean = _mean(differences)
    own = math.sqrt(sum((d - mean) ** 2 for d in differences) / (len(differences) - 1))
    error = (own if len(runs) >= MANY else max(own, pooled / 2)) / math.sqrt(len(differences))
    if abs(mean) <= max(FLOOR, SURE * error):
        return ""
    return "better" if mean < 0 else "**worse**"


def doubtful(found: Mapping[str, Runs]) -> list[str]:
    """Networks whose loss is higher from auto's start by more than counts, over the seeds that are there."""
    return [name for name, runs in found.items() if sum(b - a for a, b in runs.values()) > FLOOR * len(runs)]


def seeds(found: Mapping[str, Runs]) -> str:
    """Say which networks were run with more seeds than others, and which of those that should be are not yet.

    Example:
        >>> few = {seed: (1.0, 2.0) for seed in range(3)}
        >>> seeds({"a": few, "b": {seed: (2.0, 1.0) for seed in range(3)}}).split(". ")[-1]
        'Not yet run with nine: a.'
    """
    many = sum(len(runs) >= MANY for runs in found.values())
    waiting = [inert(name) for name in doubtful(found) if len(found[name]) < MANY]
    told = (
        f"Seeds are not alike in these sums: a network that looked worse with three seeds gets nine (`--doubtful`), and"
        f" {many} {'has' if many == 1 else 'have'} them; one that looked better keeps its three. So"
        " *worse* is counted after a second look, and *better* after the first."
    )
    if waiting:
        told += f" Not yet run with nine: {', '.join(waiting)}."
    return told


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def page(folder: Path) -> Blocks:
    """Write a row for each network, and what they come to."""
    found, written, gain = paired(folder)
    pooled = noise(found)
    lines = []
    counts: dict[str, int] = defaultdict(int)
    for name, runs in found.items():
        said = verdict(runs, pooled)
        counts[said] += 1
        default, auto = (_mean([pair[i] for pair in runs.values()]) for i in (0, 1))
        fewer = sum(b < a for a, b in runs.values())
        lines.append(
            [
                *(
                    inert(name),
                    f"{written[name]}",
                    f"{default:.3f}",
                    f"{auto:.3f}",
                    f"{auto - default:+.3f}".replace("-", "−"),
                ),
                *(f"{fewer}/{len(runs)}", f"{100 * gain[name]:+.1f}".replace("-", "−"), said),
            ]
        )
    lower = sum(_mean([b - a for a, b in runs.values()]) < 0 for runs in found.values())
    left = [inert(name) for name, layers in written.items() if layers == 0]
    head = ["network", "layers", "loss, own start", "loss, auto", "difference", "lower in", "accuracy", "beyond noise"]
    summary = (
        f"{len(found)} networks in which auto writes: {counts['better']} better beyond noise,"
        f" {counts['**worse**']} worse, {counts['']} neither. On average over seeds auto's loss is lower in"
        f" {lower} of them. Pooled, differences between seeds have a deviation of {pooled:.3f}."
    )
    architectures = sum(name.partition(":")[0] in ("timm", "torchvision") for name in found)
    summary += f" {architectures} of the {len(found)} are architectures of timm and torchvision."
    nothing = f"{len(left)} networks in which auto writes nothing, so that both starts are one, bit for bit:"
    return {MAIN: [summary, "", seeds(found), "", *table(head, lines), "", f"{nothing} {', '.join(left)}."]}
