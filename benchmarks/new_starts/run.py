"""Find each comparison's rate and run it: python benchmarks/new_starts/run.py [NAME ...].

The rate is that of three with which the default start has the best validation score, on a seed that is not judged. All
arms train with it, so a start cannot win by a rate that was searched for it. What has run is not run again.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from headstart.bench import Store
from headstart.bench.store import export
from headstart.cli.main import main as headstart

HERE, RUNS = Path(__file__).parent, Path("runs")
OUT = Path("docs/results/new-starts-rates.csv")
SEED = 1000
RATES = ("0.001", "0.003", "0.01")
ATTENTION = ("0.0003", "0.001", "0.003")
ORDER = {  # the evidence on first layers comes first
    "sound-stem": RATES,
    "volume-stem": RATES,
    "vit": ATTENTION,
    "convnext-stem": ATTENTION,
    "unet-stem": RATES,
    "copy": RATES,
    "rare-classes": RATES,
    "rare-classes-balanced": RATES,
    "rare-classes-rarer-half": RATES,
    "rare-classes-longer": RATES,
    "segmentation": RATES,
    "resnet20": RATES,
    "deep-transformer": ATTENTION,
    "partial-identity": RATES,
    "sound-stem-kmeans": RATES,
    "volume-stem-kmeans": RATES,
    "vit-kmeans": ATTENTION,
}


def tried(name: str, rate: str) -> float:
    """Train the default start once with a rate, and return its validation score."""
    out = RUNS / "new-starts-rates" / name / rate
    command = ["compare", str(HERE / f"{name}.toml"), "--arms", "default", "--seeds", f"{SEED}-{SEED}", "--exploratory"]
    if headstart([*command, "--lr", rate, "--out", str(out), "--quiet"]):
        raise SystemExit(1)
    (row,) = export.trials(Store(out))
    return float(row["validation_accuracy"])


def main(names: list[str]) -> None:
    """Run all comparisons, or those that are named."""
    for name in names or ORDER:
        scores = {rate: tried(name, rate) for rate in ORDER[name]}
        best = max(scores, key=lambda rate: scores[rate])
        print(f"{name}: {best} of {scores}", flush=True)
        if headstart(["compare", str(HERE / f"{name}.toml"), "--lr", best, "--quiet"]):
            raise SystemExit(1)
    write_rates()


def write_rates() -> None:
    """Write what was tried, of all comparisons that have run; what the file has of others stays."""
    folders = [(name, rate, RUNS / "new-starts-rates" / name / rate) for name in ORDER for rate in ORDER[name]]
    ended = [(name, rate, Store(folder)) for name, rate, folder in folders if (folder / "report.html").exists()]
    trials = [(name, rate, export.trials(store)[0]) for name, rate, store in ended]
    found = [(name, rate, str(round(float(row["validation_accuracy"]), 2))) for name, rate, row in trials]
    here = {name for name, *_ in found}
    with OUT.open(newline="") as file:
        others = [tuple(row) for row in csv.reader(file) if row[0] in ORDER and row[0] not in here]
    found = sorted([*others, *found], key=lambda row: list(ORDER).index(row[0]))
    with OUT.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("network", "rate", "validation"), *found])


if __name__ == "__main__":
    main(sys.argv[1:])
