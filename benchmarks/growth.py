"""How the cost of data-dependent starts grows with batch, depth and width, as log-log slopes.

    python benchmarks/growth.py --out docs/results

A plain CNN varies in one of the three at a time. At every size the forward pass and the starts take turns; a slope is
that of a straight line through the logarithms of the medians: 1 is proportional, 2 quadratic.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from calibration import BALANCED, WITHIN, forward, machine, seconds
from pages.write import finish

import headstart as hs
from headstart.bench.models.builders import resolve_model
from headstart.engine.method import Method

MIDDLE = {"batch": 64, "depth": 16, "width": 32}
RANGES = {"batch": (16, 32, 64, 128, 256), "depth": (4, 8, 16, 32, 64), "width": (8, 16, 32, 64, 128)}
STARTS: dict[str, Method | list[Method]] = {
    "within-layer": WITHIN,
    "within-layer and balance": BALANCED,
    "k-means fill": hs.WithinLayer(fill="kmeans"),
}
IMAGE = 32


def measure(sizes: dict[str, int], rounds: int) -> dict[str, float]:
    """Return the median seconds of the forward pass and of every start, on one network."""
    torch.manual_seed(0)
    name = f"headstart:plain-cnn:depth={sizes['depth']},width={sizes['width']}"
    model = resolve_model(name)(3, 10, (IMAGE, IMAGE))
    x = torch.randn(sizes["batch"], 3, IMAGE, IMAGE)
    hs.initialize(model, x, BALANCED)  # warm up
    turns: dict[str, list[float]] = {key: [] for key in ("forward", *STARTS)}
    for _ in range(rounds):
        turns["forward"].append(seconds(lambda: forward(model, x)))
        for key, start in STARTS.items():
            turns[key].append(seconds(lambda start=start: hs.initialize(model, x, start)))  # type: ignore[misc]
    return {key: statistics.median(times) for key, times in turns.items()}


def main() -> None:
    """Measure, and write the page and the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of growth.json and of its page, whose tables are rewritten")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    measured = {
        name: [measure({**MIDDLE, name: size}, args.rounds) for size in sizes] for name, sizes in RANGES.items()
    }
    found: dict[str, Any] = {
        "command": " ".join(["python benchmarks/growth.py", *sys.argv[1:]]),
        "machine": machine(),
        "rounds": args.rounds,
        "image": IMAGE,
        "middle": MIDDLE,
        "sizes": RANGES,
        "seconds": measured,
    }
    finish(found, "growth", args.out)


if __name__ == "__main__":
    main()
