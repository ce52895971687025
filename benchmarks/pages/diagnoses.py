"""The page on diagnoses: alarms at authors' own starts, planted illnesses, and what the mends are worth."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from pages.studies import Blocks
from pages.tables import table

HALVES = {"set": "thresholds were set on", "judged": "judged by"}


def read(folder: Path, part: str) -> list[dict[str, str]]:
    """Read one of the files."""
    with (folder / f"diagnoses-{part}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def page(folder: Path) -> Blocks:
    """Write the tables."""
    about = json.loads((folder / "diagnoses.json").read_text())
    lines = [f"Commands: {'; '.join(f'`{c}`' for c in about['commands'])}  ", f"Machine: {about['machine']}  "]
    starts = read(folder, "starts")
    sizes = sorted({int(r["samples"]) for r in starts if r["samples"]})
    line = f"timm {about['timm']}, torchvision {about['torchvision']}; seed 0; batches of {sizes[0]} to {sizes[-1]}"
    lines.append(f"{line} (column `samples` of the file; the illnesses on {about['batch']}, or fewer large images).")
    return {
        "about": lines,
        "starts": _starts(starts),
        "alarms": _alarms(starts),
        "planted": _planted(read(folder, "planted")),
        "mends": _mends(read(folder, "mends")),
    }


def _starts(rows: Sequence[dict[str, str]]) -> list[str]:
    cells = []
    groups = {what: [r for r in rows if r["half"] == half] for half, what in HALVES.items()}
    groups["never run before the rules stood"] = [r for r in rows if not r["seen"]]
    for what, group in groups.items():
        own = [r for r in group if not r["failed"]]
        alarms = [r for r in own if r["findings"]]
        before = [r for r in own if r["before"]]
        cells.append([what, f"{len(own)}", f"{len(before)}", f"{len(alarms)}", f"{100 * len(alarms) / len(own):.1f} %"])
    failed = [r for r in rows if r["failed"]]
    lines = table(["architectures", "number", "alarms by the old rules", "alarms now", "share"], cells)
    return (
        [*lines, "", f"{len(failed)} more could not be run: {', '.join(r['name'] for r in failed)}."]
        if failed
        else lines
    )


def _alarms(rows: Sequence[dict[str, str]]) -> list[str]:
    cells = [[r["name"], r["half"], r["findings"], r["evidence"]] for r in rows if r["findings"]]
    return table(["architecture", "half", "alarm", "its evidence"], cells, text=4) if cells else ["None is left."]


def _planted(rows: Sequence[dict[str, str]]) -> list[str]:
    by: dict[str, Counter[str]] = defaultdict(Counter)
    for r in rows:
        by[r["illness"]][r["ended"]] += 1
    ends = ("hit", "other culprit", "missed")
    return table(
        ["illness", "planted", *ends], [[i, f"{c.total()}", *(f"{c[e]}" for e in ends)] for i, c in by.items()]
    )


def _mends(rows: Sequence[dict[str, str]]) -> list[str]:
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = defaultdict(list)
    for r in rows:
        groups[r["illness"], r["network"], r["kind"]].append(r)
    cells = []
    for (illness, network, kind), own in groups.items():
        told = [r for r in own if r["with"]]
        better = sum(float(r["with"]) < float(r["without"]) for r in told)
        spans = [_span([float(r[key]) for r in told]) if told else "" for key in ("without", "with")]
        code = f"`{_short(told[0]['code'])}`{'' if told[0]['printed'] else ' (not printed)'}" if told else "none"
        cells.append([illness, network, kind, code, *spans, f"{better} of {len(own)}"])
    head = ["illness", "network", "finding", "mend", "loss without", "with", "better"]
    return table(head, cells, text=4)


def _short(code: str) -> str:
    return code if len(code) < 90 else f"{code[:87]}..."


def _span(values: Sequence[float]) -> str:
    words = [f"{v:.2g}" if v < 1e4 else "not finite" if v == float("inf") else f"{v:.0e}" for v in sorted(values)]
    return words[0] if words[0] == words[-1] else f"{words[0]} to {words[-1]}"
