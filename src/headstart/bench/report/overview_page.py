"""The page over several experiments, its Markdown twin, and the same as plain data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from headstart.bench.analysis.rows import record_overall
from headstart.bench.report import summary
from headstart.bench.report.forest import forest
from headstart.bench.report.overview import RULES, MethodRows, Overview, Part, Row, overall_cells
from headstart.bench.report.templating import drawing, fill
from headstart.bench.statistics.verdicts import p_text, signed
from headstart.bench.store.store import Store
from headstart.results.plain import plain
from headstart.results.sheet import inert

COLUMNS = ("method, experiment", "difference", "95 % interval", "wins", "p", "p, all rows", "steps", "verdict")


def write_overview(overview: Overview, folder: str | os.PathLike[str]) -> Path:
    """Write ``overview.html`` and ``overview.md``.

    Args:
        overview: What to show.
        folder: Made if it is missing.

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
        rules=RULES,
        forest=drawing(forest(overview)) if any(method.compared for method in overview.methods) else None,
        experiments=[_experiment(part) for part in overview.parts],
    )


def _experiment(part: Part) -> dict[str, Any]:
    plan = part.analysis.plan
    training = plan["training"]
    searched = [axis["name"] for axis in (plan.get("selection") or {}).get("axes", ())]
    return {
        "part": part,
        "task": plan["task"]["description"],
        "model": f"{plan['model']['name']}, {plan['model']['parameters']:,} parameters",
        "training": f"{training['steps']:,} steps of {training['batch_size']}, {training['optimizer']} at "
        f"{training['lr']:g}, {training['schedule']}" + (f"; searched: {', '.join(searched)}" if searched else ""),
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
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "|---" + "|--:" * (len(COLUMNS) - 2) + "|---|"]
    for method in overview.methods:
        lines += ["| " + " | ".join(map(inert, cells)) + " |" for cells in table(method)]
    lines += ["", "## Experiments", ""]
    for item in map(_experiment, overview.parts):
        what = f"{item['task']}; {item['model']}; {item['training']}; {item['seeds']} seeds"
        lines.append(f"- {inert(item['part'].title)}: {inert(what)}; margin {item['margin']:g}, α {item['alpha']:g}")
    lines += ["", "## How to read it", "", *(f"- {rule}" for rule in RULES)]
    if overview.notes:
        lines += ["", "## Notes", "", *(f"- {inert(note)}" for note in overview.notes)]
    return "\n".join(lines) + "\n"


def table(method: MethodRows) -> list[tuple[str, ...]]:
    """Write a method's rows as text, with the columns `COLUMNS`; the last is its mean if there is one."""
    rows = [_cells(method, row) for row in method.rows]
    if method.overall is not None:
        cells = overall_cells(method.overall)
        rows.append(
            (f"{method.label}, {cells.title}", cells.difference, cells.interval, cells.wins, "", "", "", cells.verdict)
        )
    return rows


def _cells(method: MethodRows, row: Row) -> tuple[str, ...]:
    title, c = f"{method.label}, {row.part.title}", row.comparison
    if c is None or row.p is None:
        return (title, "", "", "", "", "", "", row.state)
    wins, speed = f"{c.wins}/{len(c.seeds)}", summary.cells(row.arm).speed
    return (
        title,
        signed(c.mean),
        summary.span(c.interval) or summary.NO_INTERVAL,
        wins,
        p_text(c.adjusted_p),
        p_text(row.p),
        speed,
        c.verdict.value,
    )


def as_dict(overview: Overview) -> dict[str, Any]:
    """Return the overview as plain data, ready for JSON: methods with their rows, and each experiment's own."""
    found = {
        "methods": [
            {
                "label": method.label,
                "configurations": list(method.configurations),
                "sentence": method.sentence(),
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
        "rules": list(RULES),
    }
    cleaned: dict[str, Any] = plain(found)
    return cleaned
