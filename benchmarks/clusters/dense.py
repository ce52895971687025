"""What do clusters do in the dense layers of residual networks? Each form trained a little, as in the no-harm table.

    python benchmarks/clusters/dense.py [--seeds 0 1 2]

Results go to docs/results/clusters-dense.csv, a line per run; what is there is not run again.
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from architectures import packages  # noqa: E402
from no_harm.networks import own_models, timm_models  # noqa: E402
from no_harm.run import SHAPES, train  # noqa: E402

OUT = ROOT / "docs" / "results" / "clusters-dense.csv"
FIELDS = ("network", "arm", "seed", "written", "loss", "accuracy")
NETWORKS = ("headstart: cifar-resnet20", "timm: test_resnet")
ARMS = {
    "default": "default",
    "copies, all layers": "filter-clusters:draw=slices",
    "gaussian, all layers": "filter-clusters:draw=gaussian",
    "gaussian, first layer": "filter-clusters:draw=gaussian,layers=1",
}


def main() -> None:
    """Run what is not there yet, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    done = set()
    if OUT.exists():
        with OUT.open(newline="") as file:
            done = {(r["network"], r["arm"], int(r["seed"])) for r in csv.DictReader(file)}
    packages()
    build = {**dict(own_models()), **dict(timm_models())}
    for network in NETWORKS:
        for seed in args.seeds:
            for arm, spec in ARMS.items():
                if (network, arm, seed) in done:
                    continue
                found = {"network": network, "arm": arm, "seed": seed, **train(build[network], spec, seed, SHAPES[0])}
                new = not OUT.exists()
                with OUT.open("a", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                    if new:
                        writer.writeheader()
                    writer.writerow(found)
                print(found, flush=True)


if __name__ == "__main__":
    main()
