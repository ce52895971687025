"""The short forms of a report: headings, the Markdown version, plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from headstart.bench.analysis.analysis import Analysis, ArmSummary
from headstart.bench.analysis.question import question_of
from headstart.bench.analysis.rows import record
from headstart.bench.analysis.selection import Selection
from headstart.bench.statistics.metric import ACCURACY, Metric
from headstart.bench.statistics.paired import Estimate, Interval
from headstart.bench.statistics.speed import Speed
from headstart.bench.statistics.verdicts import Comparison, Verdict, p_text, signed
from headstart.results.plain import plain
from headstart.results.sheet import Column, Mark, Sheet, inert, markdown_table

NO_INTERVAL = "—"
PILLS = {
    Verdict.HELPS: "good",
    Verdict.HURTS: "bad",
    Verdict.NO_CLEAR_DIFFERENCE: "flat",
    Verdict.NOT_SETTLED: "open",
}
_NAMED = 4  # methods that a heading names


def heading(analysis: Analysis) -> str:
    """The heading: what is compared.

    Returns:
        Such as ``"prewarm and whitening against default"``.
    """
    return f"{listed([arm.label for arm in analysis.methods]) or 'controls'} against {analysis.baseline.label}"


def listed(names: Sequence[str]) -> str:
    """List methods by name, or give their number if there are many.

    Example:
        >>> listed(["a", "b", "c"]), listed(["a"] * 5)
        ('a, b and c', '5 methods')
    """
    if len(names) > _NAMED:
        return f"{len(names)} methods"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def facts(analysis: Analysis) -> list[str]:
    """A few short phrases on what was run."""
    plan = analysis.plan
    return [
        f"{plan['model']['name']} ({plan['model']['parameters']:,} parameters)",
        plan["task"]["description"],
        f"{len(plan['seeds'])} paired seeds",
        how_trained(plan) + (", but for what was searched" if analysis.selection else ""),
        *([f"the question: {asked}"] if (asked := question_of(plan)) else []),
    ]


def how_trained(plan: Mapping[str, Any]) -> str:
    """Say in a phrase how trials train: for how many steps, or by which command of the user.

    Args:
        plan: The stored experiment.
    """
    training = plan["training"]
    if "command" in training:
        return f"{training['metric']} of: {training['command']}"
    rate = f"{training['optimizer']} at {training['lr']:g}"
    return f"{training['steps']:,} steps of {training['batch_size']}, {rate}, {training['schedule']}"


class Cells(NamedTuple):
    """An arm's row as text; a cell without content is empty."""

    label: str
    accuracy: str = ""
    difference: str = ""
    interval: str = ""
    wins: str = ""
    p: str = ""
    area: str = ""
    speed: str = ""
    start: str = ""
    verdict: str = ""


def cells(arm: ArmSummary) -> Cells:
    """Write an arm's numbers as text."""
    if not arm.results:
        return Cells(arm.label, verdict="refused" if arm.refusal else "not finished")
    area, c = arm.area_difference, arm.comparison
    row = Cells(
        arm.label,
        accuracy=arm.metric.number(float(np.mean(arm.accuracies))),
        area=_with_span(signed(area.mean), span(area.interval)) if area else "",
        speed=_speed(arm.speed),
        start=_cost(arm) if arm.init_seconds else "free",
        verdict="baseline" if c is None else "not finished",
    )
    if c is None or not c.seeds:
        return row
    return row._replace(
        difference=c.metric.signed(c.mean),
        interval=span(c.interval, c.metric) or NO_INTERVAL,
        wins=f"{c.wins}/{len(c.seeds)}",
        p=p_text(c.adjusted_p),
        verdict=c.word,
    )


def arm_sheet(analysis: Analysis, mark: Callable[[ArmSummary], Mark] = lambda _: Mark()) -> Sheet[ArmSummary]:
    """Return the table of all arms, which terminal, page and Markdown show.

    Args:
        analysis: The analysis with the arms.
        mark: Returns how an arm's row is marked.
    """
    own = analysis.metric.own

    def column(title: str, name: str, short: str = "", left: bool = False) -> Column[ArmSummary]:
        return Column(title, lambda arm: str(getattr(cells(arm), name)), left=left, short=short)

    columns = [
        Column[ArmSummary]("arm", lambda arm: arm.label, left=True, short_text=_short_label),
        column(analysis.metric.name, "accuracy", "accuracy" if own else ""),
        column("difference", "difference", "diff."),
        column("95 % interval", "interval"),
        column("wins", "wins"),
        column("p (Holm)", "p"),
        column("area", "area"),
        column("steps to baseline's", "speed"),
        column("start", "start"),
        column("verdict", "verdict", left=True),
    ]
    if not own:  # whose curves are not those of headstart's own loop
        columns = [each for each in columns if each.title not in ("area", "steps to baseline's")]
    return Sheet(columns, analysis.arms, mark=mark)


def mark_of(arm: ArmSummary) -> Mark:
    """How an arm's row is marked: controls are dim, verdicts have a colour."""
    return Mark("control" if arm.control else "", "bad" if arm.refusal else colour_of(arm.comparison))


def colour_of(c: Comparison | None) -> str:
    """Return the name of a verdict's colour."""
    return "flat" if c is None or c.exploratory else PILLS[c.verdict]


def _short_label(arm: ArmSummary) -> str:
    return f"└ {arm.control}" if arm.control and arm.control != "null" else arm.label


def _cost(arm: ArmSummary) -> str:
    steps = f"{arm.init_steps:.0f}"
    if not arm.init_steps:
        return f"{arm.init_seconds:.2f} s"
    return f"{arm.init_seconds:.2f} s = {steps} step{'' if steps == '1' else 's'}"


def span(interval: Interval, metric: Metric = ACCURACY) -> str:
    """Write an interval in points; an empty string if the data could not bound it."""
    return f"{metric.signed(interval.low)} to {metric.signed(interval.high)}" if interval.bounded else ""


def _speed(speed: Speed | None) -> str:
    if speed is None:
        return ""
    text = _with_span(speed.share(), speed.span())
    return f"{text}, {speed.reached}/{len(speed.steps)}"


def _with_span(value: str, span: str) -> str:
    return f"{value} ({span})" if span else value


def markdown(analysis: Analysis) -> str:
    """Write the Markdown twin of the page: verdicts, table, controls, how it was decided."""
    lines = [f"# {inert(heading(analysis))}", "", inert(" · ".join(facts(analysis))), ""]
    if analysis.conclusion():
        lines += [f"**{inert(analysis.conclusion())}**", ""]
    if analysis.missing:
        lines += [f"**{analysis.missing} trials are not finished; this is what the others show.**", ""]
    lines += [f"- {inert(arm.sentence())}" for arm in analysis.methods]
    lines += ["", *arm_sheet(analysis).markdown()]
    lines += _search(analysis.selection) if analysis.selection else []
    lines += ["", "## What the controls show", ""]
    lines += [f"- {inert(reading)}" for reading in analysis.control_readings()] or ["There are none."]
    lines += ["", "## How it was decided", "", *(f"- {inert(rule)}" for rule in analysis.rules())]
    if analysis.failures:
        told = [f"{f.arm}, seed {f.seed}: {f.reason}" for f in analysis.failures]
        lines += ["", "## Runs that failed", "", *(f"- {inert(each)}" for each in told)]
    if analysis.notes:
        lines += ["", "## Notes", "", *(f"- {inert(note)}" for note in analysis.notes)]
    return "\n".join(lines) + "\n"


def _search(found: Selection) -> list[str]:
    lines = ["", "## What was searched", "", inert(found.sentence), ""]
    lines += markdown_table(["configuration", *found.columns], [], [True, *(False for _ in found.columns)])
    for name, cells in found.rows:
        shown = [f"**{cell.value}**" if cell.chosen else cell.value for cell in cells]
        lines.append("| " + " | ".join([inert(name), *shown]) + " |")
    return lines


def as_dict(analysis: Analysis) -> dict[str, Any]:
    """Return the analysis as plain data, ready for JSON; what is undefined or infinite is None."""
    found = {
        "task": analysis.plan["task"],
        "model": analysis.plan["model"],
        "training": analysis.plan["training"],
        "baseline": analysis.baseline.label,
        "metric": {"name": analysis.metric.name, "lower_is_better": analysis.metric.lower_is_better},
        "margin": analysis.plan["margin"],
        "conclusion": analysis.conclusion(),
        "arms": [_arm(arm) for arm in analysis.arms],
        "failures": [asdict(failure) for failure in analysis.failures],
        "beyond_controls": [_comparison(c) for c in analysis.beyond],
        "controls": analysis.control_readings(),
        "selection": analysis.plan.get("selection") or None,
        "missing_trials": analysis.missing,
        "notes": list(analysis.notes),
        "rules": analysis.rules(),
        "provenance": analysis.plan["provenance"],
    }
    cleaned: dict[str, Any] = plain(found)
    return cleaned


def _arm(arm: ArmSummary) -> dict[str, Any]:
    return {
        "label": arm.label,
        "spec": arm.spec,
        "control": arm.control or None,
        "of": arm.of or None,
        "sentence": arm.sentence(),
        "test_accuracy": {str(seed): result["test_accuracy"] for seed, result in arm.results.items()},
        "scores": {str(seed): result.get("score", result["test_accuracy"]) for seed, result in arm.results.items()},
        "failed": arm.failed,
        "mean": float(np.mean(arm.accuracies)) if arm.results else None,
        "area": arm.area if arm.area_difference or arm.speed else None,
        "area_difference": estimate_data(arm.area_difference),
        "steps_to_baseline": _speed_data(arm.speed),
        "init_seconds": arm.init_seconds,
        "init_steps": arm.init_steps,
        "diverged": arm.diverged,
        "refusal": arm.refusal or None,
        "comparison": _comparison(arm.comparison) if arm.comparison else None,
    }


def estimate_data(estimate: Estimate | None) -> dict[str, Any] | None:
    """Return an estimate as plain data."""
    return {"mean": estimate.mean, "interval": [estimate.interval.low, estimate.interval.high]} if estimate else None


def _speed_data(speed: Speed | None) -> dict[str, Any] | None:
    if speed is None:
        return None
    return {
        "target": speed.target.accuracy,
        "budget": speed.target.budget,
        "steps": {str(seed): steps for seed, steps in speed.steps.items()},
        "median": speed.median,
        "median_share": None if speed.median is None else speed.median / speed.target.budget,
        "median_of_baseline": speed.target.median,
        "interval": [speed.interval.low, speed.interval.high],
        "interval_estimated": speed.estimated,
        "reached": speed.reached,
    }


def _comparison(c: Comparison) -> dict[str, Any]:
    return {
        **record(c),
        "against": c.against,
        "differences": list(c.differences),
        "seed_names": list(c.seeds),
        "p_unadjusted": c.test.p,
        "p_least": c.test.least,
        "detectable": c.detectable,
        "seeds_needed": c.seeds_needed,
    }
