"""The demo's page: the report's Markdown twin, from its trials, its curves and the stored experiment."""

from __future__ import annotations

import json
from pathlib import Path

from headstart.bench.analysis.analysis import assemble
from headstart.bench.report.summary import markdown
from pages.marks import MAIN
from pages.studies import Blocks
from pages.trials import curves, results, rows

STEM = "demo"


def page(folder: Path) -> Blocks:
    """Write the whole report."""
    plan = json.loads((folder / f"{STEM}.json").read_text())
    found = results(rows(folder / f"{STEM}.csv"), curves(folder, STEM)[STEM])
    return {MAIN: markdown(assemble(plan, *found)).splitlines()}
