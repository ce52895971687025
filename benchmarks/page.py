"""Write a page's trials, curves and searches from finished comparisons, and make its tables and figure from them.

python benchmarks/page.py trainability --out docs/results

The comparisons are run first: headstart compare benchmarks/STUDY/*.toml, one after the other. What is on a page comes
from the files in the folder of results alone; the words between its tables stay. The README has a table of
"starts", too: python tools/recompute.py --write makes all pages again.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from pages import new_starts, rates, starts
from pages.check import write_page
from pages.studies import STUDIES
from pages.trials import rows

from headstart.bench import Store
from headstart.bench.store import export

BUDGETS = (50, 100, 200, 400, 1600, 3200)
POINTS = ("network", "arm", "seed", "step", "accuracy")
SEARCHED = ("network", "arm", "rate", "seed", "accuracy")
FACTS = ("network", "task", "classes", "test_images", "steps", "batch_size", "alpha", "margin", "search_seeds")
FACTS += ("trials", "hours")


def folders(runs: Path, page: str) -> dict[str, dict[str, Path]]:
    """Return where the comparisons of a page lie, by the file that their trials go to and by name."""
    if page == "budgets":
        return {page: {f"coarse-{budget}": runs / page / f"coarse-{budget}" for budget in BUDGETS}}
    if page == "starts":
        where = {page: runs / page, starts.LONGER: runs / "equal-cost"}
        return {stem: {name: folder / name for name in starts.STUDY.panels} for stem, folder in where.items()}
    if page == new_starts.STEM:
        return {page: {name: runs / page / name for name in new_starts.PANELS}}
    study = STUDIES[page]
    return {page: {name: runs / (study.runs or page) / name for name in study.panels}}


def write(out: Path, stem: str, where: Mapping[str, Path]) -> None:
    """Write the files of a page's comparisons. Those that are not finished here keep the rows that the files have.

    Args:
        out: Folder of results.
        stem: Of the files.
        where: Folder of each comparison by its name, in the order of the page.
    """
    stores = {name: store for name, folder in where.items() if finished(name, store := Store(folder))}
    trials, points, searches, facts = [], [], [], []
    for name, store in stores.items():
        plan = store.read_experiment()
        lr = {arm["label"]: dict(arm["changes"]).get("lr", plan["training"]["lr"]) for arm in plan["arms"]}
        trials += [{"network": name, **row, "lr": lr[row["arm"]]} for row in export.trials(store)]
        points += [{"network": name, **row} for row in export.curves(store)]
        searches += searched(name, plan)
        facts.append(known(name, plan, where[name]))
    for file, columns, made in (
        (f"{stem}.csv", ("network", *export.TRIALS, "lr"), trials),
        (f"{stem}-curves.csv.gz", POINTS, points),
        (f"{stem}-facts.csv", FACTS, facts),
        (f"{stem}-search.csv", SEARCHED, searches),
    ):
        merged = _with_kept(out / file, made, stores, list(where))
        if merged or file != f"{stem}-search.csv":
            _save(out / file, columns, merged)
    if not {row["network"] for row in rows(out / f"{stem}-stated.csv")} - stores.keys():
        (out / f"{stem}-stated.csv").unlink(missing_ok=True)  # the trials hold now what it stated


def finished(name: str, store: Store) -> bool:
    """Tell whether a comparison was run to its end; if it was only begun, say how far it is."""
    if not (store.folder / "experiment.json").exists():
        return False
    keys = [cell["key"] for cell in store.read_experiment()["trials"]]
    missing = len(keys) - len(store.present(keys))
    if missing:
        print(f"{name}: {missing} of {len(keys)} trials are missing, so its rows stay as they are.", file=sys.stderr)
    return not missing


def _with_kept(
    path: Path, made: Sequence[Mapping[str, Any]], stores: Container[str], order: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Add the rows that a file has of comparisons that are not written anew, and sort all by comparison."""
    kept = [row for row in rows(path) if row["network"] not in stores]
    place = {name: number for number, name in enumerate(order)}
    return sorted([*kept, *made], key=lambda row: place.get(row["network"], len(place)))


def searched(name: str, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List what the search tried for each arm under test, a row per trial."""
    methods = {arm["label"] for arm in plan["arms"] if not arm["control"]}
    return [
        {"network": name, "arm": arm["arm"], "rate": tried["values"]["lr"], "seed": place, "accuracy": accuracy}
        for arm in (plan.get("selection") or {}).get("arms", ())
        for tried in arm["tried"]
        for place, accuracy in enumerate(tried["accuracies"])
        if arm["arm"] in methods and "lr" in tried["values"]
    ]


def known(name: str, plan: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Say what a comparison was run on and with, and what it and its search took."""
    results = [json.loads(path.read_text())["result"] for path in folder.rglob("trials/*.json")]
    seconds = sum(result.get("init_seconds", 0) + result.get("train_seconds", 0) for result in results)
    return {
        "network": name,
        "task": plan["task"]["name"],
        "classes": plan["task"]["classes"],
        "test_images": plan["task"]["test_images"],
        "steps": plan["training"]["steps"],
        "batch_size": plan["training"]["batch_size"],
        "alpha": plan["alpha"],
        "margin": plan["margin"],
        "search_seeds": (plan.get("selection") or {}).get("seeds", ""),
        "trials": len(results),
        "hours": seconds / 3600,
    }


def _save(path: Path, columns: Sequence[str], made: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(made)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def main() -> None:
    """Read the comparisons that there are, write the files, and make the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", choices=sorted([*STUDIES, "starts", "budgets", new_starts.STEM]))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="has a folder for each page")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    args = parser.parse_args()
    for stem, where in folders(args.runs, args.page).items():
        write(args.out, stem, where)
    shown = {panel.split("/")[0] for panel in rates.PANELS}
    for stem in (args.page, *(["learning-rates"] if args.page in shown else [])):
        write_page(args.out / f"{stem}.md", args.out)


if __name__ == "__main__":
    main()
