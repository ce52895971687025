"""How far did the filters of trained networks move from their random start, and are their clusters more than chance?

python benchmarks/clusters/moved.py --sources runs/sources --out docs/results/clusters-moved.csv

For each layer of the networks of `benchmarks/train_sources.py`: the cosine between its weights before and after
training, the share of the slices' variance that ten clusters explain, and the centroids' size against that of the
slices; the last two also for a bank of untrained networks, whose slices are random numbers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

import headstart as hs
from headstart.bench.models.builders import resolve_model
from headstart.bench.trials.training import Axes

sys.path.insert(0, str(Path(__file__).parents[1]))
from train_sources import PAIRS

CLUSTERS = 10
IMAGES = (3, 10, (32, 32))


def untrained(draw: int) -> nn.Module:
    """Build the network as it was before training."""
    torch.manual_seed(draw)
    return resolve_model("headstart:resnet18")(*IMAGES)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the cosine between two tensors, taken as vectors."""
    return float(nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def shares(bank: hs.FilterBank) -> dict[str, tuple[float, float]]:
    """Return the explained share and the centroids' relative size of each layer."""
    found = {}
    for entry in bank.entries:
        sizes = entry.sizes.double()
        centroids, deviations = entry.centroids.double().flatten(1), entry.deviations.double().flatten(1)
        mean = (sizes[:, None] * centroids).sum(0) / sizes.sum()
        between = (sizes[:, None] * (centroids - mean) ** 2).sum()
        within = (sizes[:, None] * deviations**2).sum()
        size = ((sizes[:, None] * centroids**2).mean(1).sum() / sizes.sum()).sqrt() / entry.norm
        found[entry.layer] = float(between / (between + within)), float(size)
    return found


def main() -> None:
    """Write a row for each layer; `python tools/recompute.py --write` makes the page's table of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=Path, default=Path("runs/sources"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/clusters-moved.csv"))
    args = parser.parse_args()
    files = [args.sources / f"pair-{pair.replace(',', '-')}.safetensors" for pair in PAIRS]
    trained = [load_file(path) for path in files]
    before = [untrained(Axes.of(number).weights).state_dict() for number in range(len(files))]
    ours = shares(hs.FilterBank.from_models(files, clusters=CLUSTERS))
    noise = shares(hs.FilterBank.from_models((untrained(-1 - i) for i in range(len(files))), clusters=CLUSTERS))
    lines = ["layer,cosine,explained_trained,explained_random,size_trained,size_random"]
    for layer, (share, size) in ours.items():
        moved = np.mean(
            [cosine(a[f"{layer}.weight"], b[f"{layer}.weight"]) for a, b in zip(trained, before, strict=True)]
        )
        explained = f"{100 * share:.1f},{100 * noise[layer][0]:.1f}"
        lines.append(f"{layer},{moved:.3f},{explained},{size:.2f},{noise[layer][1]:.2f}")
    args.out.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
