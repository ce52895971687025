"""The page of what verdicts are worth: tables of simulations, from their file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages.studies import Blocks

STEM = "statistics"


def page(folder: Path) -> Blocks:
    """Write all tables."""
    found: dict[str, dict[str, Any]] = json.loads((folder / f"{STEM}.json").read_text(encoding="utf-8"))

    def of(prefix: str) -> list[dict[str, Any]]:
        return [row for name, row in found.items() if name.startswith(prefix + ",")]

    covered = {(r["law"], r["seeds"]): percent(r["covered"]) for r in of("coverage")}
    laws, seeds = (list(dict.fromkeys(key[place] for key in covered)) for place in (0, 1))
    return {
        "false": lines(
            ["law of arm and baseline", "experiments with a false verdict", "collapses counted right"],
            [[r["law"], percent(r["false"]), percent(r["counted right"])] for r in of("false")],
        ),
        "coverage": lines(
            ["law of the differences", *(f"{n} seeds" for n in seeds)],
            [[law, *(covered[law, n] for n in seeds)] for law in laws],
        ),
        "power": lines(
            ["seeds", "arms", "effect, deviations", "found"],
            [[str(r["seeds"]), str(r["arms"]), f"{r['effect']:.2f}", percent(r["found"], 0)] for r in of("power")],
        ),
        "equal": lines(
            ["seeds", "“no clear difference” at the margin"],
            [[str(r["seeds"]), percent(r["said"])] for r in of("no difference")],
        ),
        "search": lines(
            ["rates apart", "searched", "experiments with a false verdict"],
            [
                [
                    f"{r['apart']} points",
                    "each seed for itself" if r["each"] else "once for all seeds",
                    percent(r["false"]),
                ]
                for r in of("searched")
            ],
        ),
        "looks": lines(
            ["looks, seeds", "how", "effect, deviations", "any verdict", "found, each arm"],
            [
                [
                    ", ".join(map(str, r["seeds"])),
                    "planned" if r["planned"] else "added by hand",
                    f"{r['effect']:g}",
                    percent(r["any"]),
                    percent(r["each"], 0),
                ]
                for r in of("looks")
            ],
        ),
        "over": lines(
            ["tasks", "deviation between tasks", "mean covered", "new task covered"],
            [[str(r["tasks"]), f"{r['between']:g}", percent(r["mean"]), percent(r["new"])] for r in of("over")],
        ),
    }


def percent(value: float, digits: int = 1) -> str:
    """Write a share."""
    return f"{100 * value:.{digits}f} %"


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Write a table."""
    head = [f"| {' | '.join(columns)} |", f"|---{'|--:' * (len(columns) - 1)}|"]
    return head + [f"| {' | '.join(row)} |" for row in rows]
