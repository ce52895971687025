"""The page over several experiments, its Markdown twin, and the same as plain data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from headstart.bench.analysis.rows import record_overall
from headstart.bench.report import summary
from headstart.bench.report.forest import forest
from headstart.bench.report.overview import MethodRows, Overview, Part, overall_cells
from headstart.bench.report.profile import performance_profile, profiled
from headstart.bench.report.templating import drawing, fill
from headstart.bench.statistics.verdicts import p_text
from headstart.bench.store.store import Store
from headstart.results.plain import plain
from headstart.results.sheet import Column, Mark, Sheet, inert


class OverviewLine(NamedTuple):
    """A line of the table of all methods: a heading, an experiment, or an overall row."""

    mark: Mark
    title: str
    difference: str = ""
    interval: str = ""
    wins: str = ""
    p: str = ""
    p_all: str = ""
    steps: str = ""
    verdict: str = ""


_TITLES = ("method, experiment", "difference", "95 % interval", "wins", "p", "p, all rows", "steps", "verdict")
_SHORT = {"difference": "diff."}


def write_overview(overview: Overview, folder: str | os.PathLike[str]) -> Path:
    """Write ``overview.html`` and ``overview.md``.

    Args:
        overview: The content.
        folder: The output folder, made if it is missing.

    Returns:
        The path of the page.

    Raises:
        HeadstartError: If the folder cannot be written to.
        MissingExtraError: If matplotlib or Jinja2 is not installed.
    """
    page = render(overview)
    target = Store(folder)
    target.write_text("overview.md", markdown(overview))
    return target.write_text("overview.html", page)


def render(overview: Overview) -> str:
    """Render the page as a string. It refers to nothing outside itself and runs no script."""
    return fill(
        "overview.html.jinja",
        overview=overview,
        heading=overview.heading(),
        facts=overview.facts(),
        rules=overview.rules(),
        forest=drawing(forest(overview)) if any(method.compared for method in overview.methods) else None,
        table=overview_sheet(overview),
        profile=drawing(performance_profile(overview)) if profiled(overview) else None,
        experiments=[_experiment(part) for part in overview.parts],
    )


def _experiment(part: Part) -> dict[str, Any]:
    plan = part.analysis.plan
    searched = [axis["name"] for axis in (plan.get("selection") or {}).get("axes", ())]
    return {
        "part": part,
        "task": plan["task"]["description"],
        "model": f"{plan['model']['name']}, {plan['model']['parameters']:,} parameters",
        "training": summary.how_trained(plan) + (f"; searched: {', '.join(searched)}" if searched else ""),
        "baseline": part.analysis.baseline.label,
        "seeds": len(plan["seeds"]),
        "margin": plan["margin"],
        "alpha": plan["alpha"],
        "folder": part.folder.name or str(part.folder),
    }


def markdown(overview: Overview) -> str:
    """Write the Markdown twin of the page: sentences, table, experiments, how it was decided."""
    lines = [f"# {inert(overview.heading())}", "", inert(" · ".join(overview.facts())), ""]
    lines += [f"- {inert(method.sentence())}" for method in overview.methods]
    lines += ["", *overview_sheet(overview).markdown()]
    lines += ["", "## Experiments", ""]
    for item in map(_experiment, overview.parts):
        what = f"{item['task']}; {item['model']}; {item['training']}; {item['seeds']} seeds"
        lines.append(f"- {inert(item['part'].title)}: {inert(what)}; margin {item['margin']:g}, α {item['alpha']:g}")
    lines += ["", "## How to read it", "", *(f"- {inert(rule)}" for rule in overview.rules())]
    if overview.notes:
        lines += ["", "## Notes", "", *(f"- {inert(note)}" for note in overview.notes)]
    return "\n".join(lines) + "\n"


def overview_sheet(overview: Overview) -> Sheet[OverviewLine]:
    """Return the table of all methods in all experiments, which terminal, page and Markdown show."""

    def column(place: int, title: str) -> Column[OverviewLine]:
        return Column(
            title,
            lambda line: str(line[1 + place]),
            left=title in (_TITLES[0], _TITLES[-1]),
            short=_SHORT.get(title, ""),
        )

    columns = [column(place, title) for place, title in enumerate(_TITLES)]
    lines = [line for method in overview.methods for line in lines_of(method)]
    return Sheet(columns, lines, mark=lambda line: line.mark)


def lines_of(method: MethodRows) -> list[OverviewLine]:
    """Write a method's lines: its name, one line per experiment, and an overall line if there are several."""
    lines = [OverviewLine(Mark("group"), method.label, verdict=method.verdicts())]
    for row in method.rows:
        c, mark = row.comparison, Mark("", summary.colour_of(row.comparison) if row.comparison else "")
        if c is None or row.p is None:
            lines.append(OverviewLine(mark, row.part.title, verdict=row.state))
            continue
        written = summary.cells(row.arm)
        steps = row.arm.speed.share() if row.arm.speed else ""
        lines.append(
            OverviewLine(
                mark,
                row.part.title,
                written.difference,
                written.interval,
                written.wins,
                p_text(c.adjusted_p),
                p_text(row.p),
                steps,
                row.state,
            )
        )
    if method.overall is not None:
        whole = overall_cells(method.overall)
        lines.append(
            OverviewLine(
                Mark("overall"), whole.title, whole.difference, whole.interval, whole.wins, verdict=whole.verdict
            )
        )
    return lines


def as_dict(overview: Overview) -> dict[str, Any]:
    """Return the overview as plain data, ready for JSON: methods with their rows, and each experiment's own."""
    found = {
        "methods": [
            {
                "label": method.label,
                "configurations": list(method.configurations),
                "sentence": method.sentence(),
                "primary": method.primary,
                "overall": record_overall(method.overall) if method.overall else None,
                "rows": [
                    {"experiment": row.part.number, "arm": row.arm.label, "state": row.state, "p_all_rows": row.p}
                    for row in method.rows
                ],
            }
            for method in overview.methods
        ],
        "experiments": [
            {"number": part.number, "name": part.name, "folder": str(part.folder), **summary.as_dict(part.analysis)}
            for part in overview.parts
        ],
        "notes": list(overview.notes),
        "rules": overview.rules(),
    }
    cleaned: dict[str, Any] = plain(found)
    return cleaned
