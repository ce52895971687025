"""K-means against the best of three starts of scikit-learn, on data that its tests do not use; and from fewer points.

    python benchmarks/kmeans.py --out docs/results

Inertia is the sum of squared distances to the nearest centroid: less is better. The second table clusters 4,000 of
60,000 patches and all of them, and looks at the inertia over all.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from calibration import machine
from pages.write import finish
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_sample_images
from threadpoolctl import threadpool_limits
from torch import Tensor

from headstart.numerics.clustering import kmeans

CLUSTERS, SEEDS = (8, 32, 96), (1, 2)
FEW, MANY = 4000, 60_000


def patches(images: Tensor, side: int, count: int, seed: int) -> Tensor:
    """Patches at random places of images ``(N, C, H, W)``, each without its mean."""
    draw = torch.Generator().manual_seed(seed)
    number, rows, columns = (
        torch.randint(high, (count,), generator=draw)
        for high in (len(images), images.shape[2] - side + 1, images.shape[3] - side + 1)
    )
    windows = images.unfold(2, side, 1).unfold(3, side, 1)
    taken = windows[number, :, rows, columns].flatten(1)
    return taken - taken.mean(1, keepdim=True)


def photographs() -> Tensor:
    """The photograph that the tests do not use."""
    return torch.tensor(load_sample_images().images[1]).float().movedim(2, 0)[None] / 255


def digits() -> Tensor:
    """Handwritten digits."""
    return torch.tensor(load_digits().images).float()[:, None] / 16


def blobs(seed: int) -> Tensor:
    """Points around 40 centres."""
    draw = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(40, 6, generator=draw)
    return centres[torch.randint(40, (2000,), generator=draw)] + torch.randn(2000, 6, generator=draw)


DATA: dict[str, Callable[[int], Tensor]] = {
    "3×3 patches of a photograph": lambda seed: patches(photographs(), 3, 3000, seed),
    "5×5 patches of a photograph": lambda seed: patches(photographs(), 5, 3000, seed),
    "5×5 patches of digits": lambda seed: patches(digits(), 5, 3000, seed),
    "blobs": blobs,
}


def against_sklearn() -> list[dict[str, Any]]:
    """Inertia of both, for every kind of data, number of clusters and seed."""
    found = []
    for name, make in DATA.items():
        for clusters in CLUSTERS:
            ratios = []
            for seed in SEEDS:
                points = make(seed)
                with threadpool_limits(limits=1):
                    reference = KMeans(clusters, n_init=3, random_state=seed).fit(points.numpy())
                ratios.append(kmeans(points, clusters, seed=seed).inertia / reference.inertia_)
            found.append({"data": name, "clusters": clusters, "ratios": ratios})
    return found


def from_fewer() -> list[dict[str, Any]]:
    """Inertia over all patches of centroids from some of them, over that of centroids from all."""
    found = []
    for side in (3, 5):
        points = patches(photographs(), side, MANY, 3)
        for clusters in (64, 256):
            times, inertias = [], []
            for some in (points[:FEW], points):
                start = time.process_time()
                centroids = kmeans(some, clusters, seed=0, n_init=1, moves=0).centroids
                times.append(time.process_time() - start)
                inertias.append(float(torch.cdist(points, centroids).amin(1).square().sum()))
            row = {
                "side": side,
                "clusters": clusters,
                "inertia": inertias[0] / inertias[1],
                "time": times[0] / times[1],
            }
            found.append(row)
    return found


def main() -> None:
    """Measure, and write the page and the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of kmeans.json and of its page, whose tables are rewritten")
    args = parser.parse_args()
    command = " ".join(["python benchmarks/kmeans.py", *sys.argv[1:]])
    found = {"command": command, "machine": machine(), "seeds": len(SEEDS), "few": FEW, "many": MANY}
    finish({**found, "sklearn": against_sklearn(), "fewer": from_fewer()}, "kmeans", args.out)


if __name__ == "__main__":
    main()
