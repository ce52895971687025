"""From the committed trials to comparisons: the package's own statistics, on a CSV file instead of a store.

Beside ``X.csv`` lie ``X-facts.csv``, what each comparison was run on and with, and, where the trials do not hold them,
``X-stated.csv``: rates, and starts' times in steps, as they were stated when the trials were there.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.bench.analysis.analysis import Analysis, assemble

Row = dict[str, str]
Curves = dict[tuple[str, int], list[dict[str, float]]]  # by arm and seed
Results = dict[str, dict[int, dict[str, Any]]]  # by arm and seed
_NUMBERS = ("test_accuracy", "validation_accuracy", "area", "init_seconds", "step_seconds")


@dataclass(frozen=True)
class Compared:
    """One comparison.

    Args:
        analysis: What its trials show.
        facts: Its row of ``X-facts.csv``.
        stated: Its rows of ``X-stated.csv``, by arm.
        kept: The columns that its trials have values in.
    """

    analysis: Analysis
    facts: Mapping[str, str]
    stated: Mapping[str, Row]
    kept: frozenset[str]


def rows(path: Path) -> list[Row]:
    """Read a CSV file, which may be compressed; nothing if it is not there."""
    if not path.exists():
        return []
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def read(folder: Path, stem: str) -> dict[str, Compared]:
    """Judge all comparisons whose trials one file holds.

    Args:
        folder: Of the results.
        stem: Of the file, ``docs/results/STEM.csv``.

    Returns:
        The comparisons by name, in the order of the file.
    """
    facts = {row["network"]: row for row in rows(folder / f"{stem}-facts.csv")}
    points = curves(folder, stem)
    stated: dict[str, dict[str, Row]] = {}
    for row in rows(folder / f"{stem}-stated.csv"):
        stated.setdefault(row["network"], {})[row["arm"]] = row
    trials: dict[str, list[Row]] = {}
    for row in rows(folder / f"{stem}.csv"):
        trials.setdefault(row.get("network", stem), []).append(row)
    return {
        name: Compared(
            _analysis(listed, facts[name], points.get(name, {})),
            facts[name],
            stated.get(name, {}),
            frozenset(column for column in listed[0] if any(row[column] for row in listed)),
        )
        for name, listed in trials.items()
    }


def curves(folder: Path, stem: str) -> dict[str, Curves]:
    """Read the learning curves of all comparisons of a file, if they are kept."""
    found: dict[str, Curves] = {}
    for row in [*rows(folder / f"{stem}-curves.csv"), *rows(folder / f"{stem}-curves.csv.gz")]:
        point = {"step": int(row["step"]), "accuracy": float(row["accuracy"])}
        own = found.setdefault(row.get("network", stem), {})
        own.setdefault((row["arm"], int(row["seed"])), []).append(point)
    return found


def results(trials: Sequence[Row], points: Curves) -> tuple[Results, dict[str, str]]:
    """Return finished trials by arm and seed, as a store would, and why arms were refused."""
    found: Results = {row["arm"]: {} for row in trials}
    refusals = {row["arm"]: row["reason"] for row in trials if row["status"] == "refused"}
    for row in trials:
        if row["status"] != "refused":
            seed = int(row["seed"])
            numbers = {name: float(row.get(name) or math.nan) for name in _NUMBERS}
            found[row["arm"]][seed] = {
                "status": row["status"],
                "curve": points.get((row["arm"], seed), []),
                **numbers,
            }
    return found, refusals


def _analysis(trials: Sequence[Row], facts: Mapping[str, str], points: Curves) -> Analysis:
    arms = {row["arm"]: row for row in trials}
    plan = {
        "arms": [_arm(row) for row in arms.values()],
        "alpha": float(facts["alpha"]),
        "margin": float(facts["margin"]),
        "seeds": sorted({int(row["seed"]) for row in trials}),
        "training": {"steps": int(facts["steps"]), "batch_size": int(facts["batch_size"])},
        "task": {
            "name": facts["task"],
            "classes": int(facts["classes"]),
            "test_images": int(facts["test_images"] or 0),
        },
    }
    return assemble(plan, *results(trials, points), curves=bool(points))


def _arm(row: Row) -> dict[str, Any]:
    return {
        "label": row["arm"],
        "spec": row.get("spec", ""),
        "methods": (),
        "control": row["control"],
        "of": row["of"],
        "changes": re.findall(r"(\w+)=([^,]+)", row.get("changes", "")),
        "lr": row.get("lr", ""),
    }
