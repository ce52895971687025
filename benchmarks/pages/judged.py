"""The page of the judgement: `auto` on each cell, over all cells, and against the goals that were set before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from evidence import cells

from headstart.bench.analysis.analysis import ArmSummary
from headstart.bench.report.summary import cells as written
from headstart.bench.statistics.censored import steps_to
from headstart.bench.statistics.over_tasks import Overall, over_tasks
from headstart.bench.statistics.verdicts import Comparison, compare_family, p_text, signed
from headstart.results.sheet import inert
from pages.tables import arms, gain, interval, mean_accuracy, table
from pages.trials import Compared, read

STEM, CONTROLS = "judged", "judged-controls"
GAIN, HARM, STEPS = 1.0, -0.3, 60  # the goals: points on the median cell, points, percent
Blocks = dict[str, list[str]]
Found = Mapping[str, Compared]


def page(folder: Path) -> Blocks:
    """Write all tables of the page."""
    found, whole = read(folder, STEM), read(folder, CONTROLS)
    missing = [f"`{cell.name}`" for cell in cells.CORE if cell.name not in found]
    waits = ["", f"Not run yet: {', '.join(missing)}."] if missing else []
    return {
        "cells": [*_cells(found), *waits] if found else ["No judged trial was run yet."],
        "over-cells": _over(found) if found else ["No judged trial was run yet."],
        "goals": _goals(found) if found and not missing else ["The goals are judged once all cells are there."],
        "controls": _controls(whole) if whole else ["Not run yet."],
    }


def auto(compared: Compared) -> ArmSummary:
    """Return the arm that is judged."""
    return next(arm for arm in compared.analysis.arms if arm.label == cells.AUTO)


def steps_share(compared: Compared) -> float | None:
    """Return the steps in which `auto` is where the default ends, in percent of those that the default takes itself.

    Both are read from the mean validation curve over seeds: it has an end that the default itself reaches, which the
    single seeds' do not have. The time of `auto`'s start is added, in steps.

    Returns:
        None if `auto` is not there within the training.
    """
    steps, base = compared.analysis.baseline.curves()
    target = float(base.mean(0)[-1])
    arm = auto(compared)
    own, theirs = (
        steps_to(steps, [float(value) for value in curves.mean(0)], target) for curves in (arm.curves()[1], base)
    )
    return None if own is None or not theirs else 100 * (own + arm.init_steps) / theirs


def _comparison(arm: ArmSummary) -> Comparison:
    assert arm.comparison is not None
    return arm.comparison


def _cells(found: Found) -> list[str]:
    lines = []
    for name, compared in found.items():
        arm = auto(compared)
        comparison, share = _comparison(arm), steps_share(compared)
        lines.append(
            [
                f"`{name}`",
                f"{compared.facts['steps']}",
                f"{mean_accuracy(compared.analysis.baseline):.1f}",
                gain(comparison),
                f"{comparison.wins}/{len(comparison.seeds)}",
                p_text(comparison.test.p),
                "not reached" if share is None else f"{share:.0f} %",
                written(arm).start,
            ]
        )
    head = ["cell", "steps", "default", "auto − default", "ahead in", "p", "steps to the default's end", "start takes"]
    return table(head, lines)


def _together(pairs: Sequence[tuple[Comparison, ArmSummary, ArmSummary]]) -> Overall | None:
    return over_tasks([c for c, _, _ in pairs], [(one.accuracies, other.accuracies) for _, one, other in pairs])


def _over(found: Found) -> list[str]:
    listed = [(_comparison(auto(c)), auto(c), c.analysis.baseline) for c in found.values()]
    means = [c.mean for c, _, _ in listed]
    rows = [
        ["cells", f"{len(means)}"],
        ["median of the cells' means", signed(median(means))],
        ["cells ahead / behind", f"{sum(m > 0 for m in means)} / {sum(m < 0 for m in means)}"],
    ]
    overall = _together(listed)
    if overall and overall.effects:
        effects = overall.effects
        rows += [
            ["mean over cells like these (95 %)", f"{signed(effects.mean)} ({interval(effects.interval)})"],
            ["where the mean of a new cell lies (95 %)", interval(effects.prediction)],
            ["deviation between cells", f"{effects.deviation:.2f}"],
            ["p of no difference", p_text(effects.p)],
        ]
    return table(["over cells", "auto − default"], rows)


def _goals(found: Found) -> list[str]:
    listed = [_comparison(auto(c)) for c in found.values()]
    middle = median(c.mean for c in listed)
    harmed = sum(c.interval.high < HARM for c in listed)
    shares = [share if (share := steps_share(c)) is not None else math.inf for c in found.values()]
    typical = median(shares)
    rows = [
        ["points on the median cell", f"at least {signed(GAIN)}", signed(middle), _met(middle >= GAIN)],
        [f"cells whose whole interval lies below {signed(HARM)}", "none", f"{harmed}", _met(not harmed)],
        [
            "steps to the default's end, median cell",
            f"at most {STEPS} %",
            f"{typical:.0f} %" if math.isfinite(typical) else "not reached",
            _met(typical <= STEPS),
        ],
    ]
    return table(["goal", "asked", "found", "met"], rows)


def _met(met: bool) -> str:
    return "yes" if met else "no"


def _controls(whole: Found) -> list[str]:
    """Write `auto` minus each other arm, and each cell's arms."""
    lines: list[str] = []
    against: dict[str, list[float]] = {}
    for compared in whole.values():
        known = {arm.label: arm for arm in compared.analysis.arms if arm.results}
        scores = {
            label: {seed: float(result["test_accuracy"]) for seed, result in arm.results.items()}
            for label, arm in known.items()
        }
        plan = compared.analysis.plan
        pairs = [(cells.AUTO, label) for label in known if label != cells.AUTO]
        for c in compare_family(pairs, scores, plan["alpha"], plan["margin"]):
            against.setdefault(c.against, []).append(c.mean)
    rows = [
        [
            inert(label),
            f"{len(means)}",
            signed(median(means)),
            f"{sum(m > 0 for m in means)} / {sum(m < 0 for m in means)}",
        ]
        for label, means in against.items()
    ]
    lines += table(["auto minus", "cells", "median", "ahead / behind"], rows)
    for name, compared in whole.items():
        lines += ["", f"### `{name}`", "", *arms(compared)]
    return lines
