"""The report: one self-contained HTML page, and its short Markdown twin."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from headstart.bench.analysis.analysis import Analysis, ArmSummary, analyse
from headstart.bench.analysis.controls import plain_name
from headstart.bench.report import figures, pictures, summary
from headstart.bench.report.svg import figure
from headstart.bench.report.templating import drawing, engine, fill
from headstart.bench.statistics.sentences import say
from headstart.bench.store.store import Store
from headstart.results.sheet import Mark

_ROLES = {
    "": "method",
    "matched-random": "control",
    "zero-dc-random": "control",
    "equal-steps": "control",
    "restarts": "control",
    "null": "null",
}


def write_report(store: Store, analysis: Analysis | None = None, folder: str | os.PathLike[str] | None = None) -> Path:
    """Write ``report.html`` and ``report.md``.

    Args:
        store: The store of an experiment that was at least begun.
        analysis: The analysis of the store, if it is at hand.
        folder: The output folder; the store's own by default.

    Returns:
        The path of the page.

    Raises:
        HeadstartError: If the folder holds no experiment or cannot be written to.
        MissingExtraError: If matplotlib or Jinja2 is not installed.
    """
    analysis = analysis or analyse(store)
    page = render(analysis)
    target = store if folder is None else Store(folder)
    target.write_text("report.md", summary.markdown(analysis))
    return target.write_text("report.html", page)


def check_packages() -> None:
    """Raise now if a package for the page is missing, and not after hours of training.

    Raises:
        MissingExtraError: If matplotlib or Jinja2 is not installed.
    """
    engine()
    figure(1, 1)


def render(analysis: Analysis) -> str:
    """Render the page as a string. It refers to nothing outside itself and runs no script."""
    finished = any(arm.results for arm in analysis.arms)
    return fill(
        "report.html.jinja",
        analysis=analysis,
        plan=analysis.plan,
        heading=summary.heading(analysis),
        facts=summary.facts(analysis),
        cards=[_card(analysis, arm) for arm in analysis.methods],
        rows=[_row(analysis, arm) for arm in analysis.arms],
        arms=summary.arm_sheet(analysis, lambda arm: _marked(analysis, arm)),
        own=analysis.metric.own,
        metric=analysis.metric,
        curves=drawing(figures.learning_curves(analysis)) if any(a.curves()[0] for a in analysis.arms) else None,
        pairs=drawing(figures.paired_differences(analysis)) if finished else None,
        speed=drawing(figures.steps_to_baseline(analysis)) if analysis.baseline.speed else None,
        filters=_filters(analysis),
        trials=_trials(analysis),
        tests=[c for arm in analysis.arms if (c := arm.comparison) and c.seeds]
        + [c for c in analysis.beyond if c.seeds],
        command=shlex.join(analysis.plan["provenance"]["command"]),
        environment=_environment(analysis),
    )


def _card(analysis: Analysis, arm: ArmSummary) -> dict[str, Any]:
    kinds = {each.label: each.control for each in analysis.arms}
    beyond = [(c, plain_name(kinds[c.against])) for c in analysis.beyond if c.arm == arm.label and c.seeds]
    stored = next(each for each in analysis.plan["arms"] if each["label"] == arm.label)
    exact = (*arm.methods, *(f"{name}={_plain(value)}" for name, value in stored.get("changes", ())))
    words = say(arm.comparison) if arm.comparison and arm.comparison.seeds else None
    told = {"words": words, "aside": arm.aside(), "sentence": arm.sentence()}
    return {**_row(analysis, arm), **told, "exact": exact, "beyond": beyond}


def _marked(analysis: Analysis, arm: ArmSummary) -> Mark:
    verdict = arm.comparison is not None and bool(arm.comparison.seeds)
    mark = summary.mark_of(arm)
    return mark._replace(colour=mark.colour if verdict else "", hue=figures.hue(analysis, arm), dashes=arm.control)


def _row(analysis: Analysis, arm: ArmSummary) -> dict[str, Any]:
    comparison = arm.comparison
    return {
        "arm": arm,
        "hue": figures.hue(analysis, arm),
        "role": "baseline" if arm is analysis.baseline else _ROLES.get(arm.control, "control"),
        "comparison": comparison if comparison and comparison.seeds else None,
        "pill": summary.colour_of(comparison),
        "mean": float(np.mean(arm.accuracies)) if arm.results else None,
        "deviation": float(np.std(arm.accuracies, ddof=1)) if len(arm.results) > 1 else None,
    }


def _filters(analysis: Analysis) -> list[dict[str, Any]]:
    """Pictures of the first layer for the lowest finished seed of each arm, on one scale."""
    shown = [(arm, next(iter(arm.results.items()))) for arm in analysis.arms if arm.results]
    shown = [(arm, item) for arm, item in shown if (layer := item[1].get("first_layer")) and layer["kept"]]
    scale = pictures.common_scale([result["first_layer"] for _, (_, result) in shown])
    rows = []
    for arm, (seed, result) in shown:
        layer = result["first_layer"]
        parts = []
        for part, title in (("default", "default draw"), ("start", "start"), ("trained", "after training")):
            source, width, height = pictures.filter_picture(layer, part, scale)
            parts.append({"src": source, "width": width, "height": height, "title": title, **layer["measures"][part]})
        rows.append({"arm": arm, "hue": figures.hue(analysis, arm), "seed": seed, "layer": layer, "parts": parts})
    return rows


def _trials(analysis: Analysis) -> list[dict[str, Any]]:
    return [{"arm": arm.label, "seed": seed, **result} for arm in analysis.arms for seed, result in arm.results.items()]


def _environment(analysis: Analysis) -> list[tuple[str, str]]:
    found = analysis.plan["provenance"]
    machine = found["machine"]
    rows = [(name, version) for name, version in found["versions"].items() if version]
    rows += [("machine", f"{machine['processor']}, {machine['cores']} cores, {machine['system']}")]
    rows += [("accelerator", machine["accelerator"])] if machine["accelerator"] else []
    rows += [("threads", str(found["threads"])), ("commit", found["commit"] or "none"), ("data, sha256", found["data"])]
    rows += [(name.replace("_", " "), _plain(value)) for name, value in analysis.plan["training"].items()]
    return rows


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
