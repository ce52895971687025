"""Train every network of the table a little, from its author's start and from auto's, on the same batches.

    python benchmarks/no_harm/run.py [--only PART ...] [--seeds 0 1 2]

Results go to docs/results/no-harm.csv, a line per run; what is there is not run again. Then
``python tools/recompute.py --write`` makes the table. torch, torchvision and timm must be installed; networks of
packages that are missing are left out, and may be added from another environment.
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import headstart as hs  # noqa: E402
from no_harm.networks import CLASSES, every  # noqa: E402

OUT = ROOT / "docs" / "results" / "no-harm.csv"
FIELDS = ("network", "arm", "seed", "written", "loss", "accuracy", "side")
STEPS, BATCH, RATE, LAST, HELD_OUT = 60, 16, 1e-3, 10, 128
CALIBRATION = 64


def images(count: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw images of ten kinds: each a smooth pattern of its own, moved a little, in noise twice as strong."""
    kinds = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    kinds = F.interpolate(kinds, (side, side), mode="bilinear")
    kinds = (kinds - kinds.mean((1, 2, 3), keepdim=True)) / kinds.std((1, 2, 3), keepdim=True)
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (count,), generator=draw)
    shifts = torch.randint(0, side // 8 + 1, (count, 2), generator=draw).tolist()
    moved = torch.stack([kinds[t].roll((a, b), (1, 2)) for t, (a, b) in zip(targets.tolist(), shifts, strict=True)])
    return (moved + 2 * torch.randn(moved.shape, generator=draw)) / 5**0.5, targets


def train(build: Callable[[], nn.Module], arm: str, seed: int, side: int) -> dict[str, object]:
    """Build, start and train a network once.

    Returns:
        How many layers were written, the mean loss over the last steps (each on images not seen before), and the
        accuracy on others afterwards.
    """
    torch.manual_seed(seed)
    model = build()
    written = 0
    if arm != "default":
        data, _ = images(CALIBRATION, side, 10_000 + seed)
        written = len(hs.initialize(model, data, arm, seed=seed).changed)
        if not written:
            return {"written": 0, "loss": "", "accuracy": ""}
    torch.manual_seed(1000 + seed)  # dropout
    model.train()
    rule = torch.optim.Adam(model.parameters(), RATE)
    xs, ys = images(STEPS * BATCH, side, seed)
    losses = []
    for x, y in zip(xs.split(BATCH), ys.split(BATCH), strict=True):
        loss = F.cross_entropy(model(x), y)
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(float(loss.detach()))
    model.eval()
    x, y = images(HELD_OUT, side, 20_000 + seed)
    with torch.no_grad():
        right = float((model(x).argmax(1) == y).double().mean())
    return {"written": written, "loss": round(sum(losses[-LAST:]) / LAST, 4), "accuracy": round(right, 4)}


def smallest_side(build: Callable[[], nn.Module]) -> int:
    """The smaller of two sides that the network takes in training."""
    for side in (32, 64):
        try:
            model = build().train()
            model(images(2, side, 0)[0])
        except (RuntimeError, ValueError, AssertionError):
            continue
        return side
    return 0


def main() -> None:
    """Run what is not there yet; auto first: where it writes nothing there is nothing to compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    done = {}
    if OUT.exists():
        with OUT.open() as file:
            done = {(r["network"], r["arm"], int(r["seed"])): r for r in csv.DictReader(file)}
    for name, build in every():
        if args.only and not any(part in name for part in args.only):
            continue
        wanted = [(arm, seed) for seed in args.seeds for arm in ("auto", "default")]
        wanted = [(arm, seed) for arm, seed in wanted if (name, arm, seed) not in done]
        if not wanted or done.get((name, "auto", 0), {}).get("written") == "0":
            continue
        side = smallest_side(build)
        if not side:
            print(f"{name}: takes neither 32 nor 64 pixels", flush=True)
            continue
        for arm, seed in wanted:
            found = {"network": name, "arm": arm, "seed": seed, "side": side, **train(build, arm, seed, side)}
            new = not OUT.exists()
            with OUT.open("a", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(found)
            print(found, flush=True)
            if found["written"] == 0 and arm == "auto":
                break  # bit for bit the same network


if __name__ == "__main__":
    if "torchvision" not in sys.modules:  # beside a CPU torch it wants two operators that it never runs here
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
                del sys.modules[module]
            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except ImportError:
            pass
    main()
