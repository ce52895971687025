"""The page of the sweep over timm's modules, from the table that it writes."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from pages.costs import about, found
from pages.marks import MAIN
from pages.studies import Blocks
from pages.tables import table

HEAD = ("module", "smallest model", "`auto`", "found at its own start", "found after `auto`", "million weights", "side")


def page(folder: Path) -> Blocks:
    """Write how the calls ended, in a table of counts, and each model's row."""
    measured = found(folder, "sweep")
    with (folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    line = f"timm {measured['timm']}: {len(rows)} of {measured['modules']} modules, {measured['batch']} images each."
    counts = {call: Counter(_end(row, call) for row in rows) for call in ("auto", "diagnose")}
    ends = ("done", "refused", "foreign exception", "did not run")
    ended = [[f"`{call}`", *(str(counts[call][end]) for end in ends)] for call in counts]
    ill = [
        [f"models with a finding {when}", str(sum(bool(row[key]) for row in rows))]
        for when, key in (("at their own start", "before"), ("after `auto`", "after"))
    ]
    return {
        "about": about(measured, line),
        "ends": table(["call", *ends], ended),
        "findings": table(["", "models"], ill),
        MAIN: table(HEAD, list(map(_cells, rows)), text=5),
    }


def _end(row: dict[str, str], call: str) -> str:
    return "did not run" if row["failed"] else row[call].partition(":")[0].partition(",")[0]


def _cells(row: dict[str, str]) -> list[str]:
    auto = row["failed"] or row["auto"].replace("|", "/")
    if auto == "done":
        auto = f"{row['written']} of {row['layers']} layers written" if row["written"] != "0" else "left as it was"
    if row["diagnose"] not in ("done", ""):
        auto += f"; `diagnose`: {row['diagnose'].replace('|', '/')}"
    weights = f"{int(row['parameters']) / 1e6:.1f}" if row["parameters"] else ""
    return [row["module"], row["model"], auto, row["before"], row["after"], weights, row["side"]]
