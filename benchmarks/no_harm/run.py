"""Train every network of the table a little, from its author's start and from auto's, on the same batches.

    python benchmarks/no_harm/run.py [--only PART ...] [--seeds 0 1 2]
    python benchmarks/no_harm/run.py --doubtful

Results go to docs/results/no-harm.csv, a line per run; what is there is not run again. Then
``python tools/recompute.py --write`` makes the table. Networks of packages that are missing are left out, and may be
added from another environment. ``--doubtful`` runs six more seeds of each network whose mean loss is higher from auto's
start by more than counts. ``--arms`` with ``--out`` tries other starts than auto.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from pages.no_harm import doubtful, paired  # noqa: E402

import headstart as hs  # noqa: E402
from no_harm.networks import CLASSES, every  # noqa: E402

OUT = ROOT / "docs" / "results" / "no-harm.csv"
FIELDS = ("network", "arm", "seed", "written", "loss", "accuracy", "side")
STEPS, BATCH, RATE, LAST, HELD_OUT = 60, 16, 1e-3, 10, 128
CALIBRATION = 64
MORE = tuple(range(3, 9))  # seeds of networks that were higher from auto's start
Shape = tuple[int, ...]
SHAPES: tuple[Shape, ...] = ((32, 32), (64, 64), (16, 16, 16), (32, 32, 32))


def images(count: int, shape: Shape, seed: int) -> tuple[Tensor, Tensor]:
    """Draw images of ten kinds: each a smooth pattern of its own, moved a little, in noise twice as strong."""
    kinds = torch.randn(CLASSES, 3, *(8 for _ in shape), generator=torch.Generator().manual_seed(7))
    kinds = F.interpolate(kinds, shape, mode="bilinear" if len(shape) == 2 else "trilinear")
    every = tuple(range(1, len(shape) + 2))
    kinds = (kinds - kinds.mean(every, keepdim=True)) / kinds.std(every, keepdim=True)
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (count,), generator=draw)
    shifts = torch.randint(0, shape[0] // 8 + 1, (count, len(shape)), generator=draw).tolist()
    moved = torch.stack([kinds[t].roll(by, every[:-1]) for t, by in zip(targets.tolist(), shifts, strict=True)])
    return (moved + 2 * torch.randn(moved.shape, generator=draw)) / 5**0.5, targets


def train(build: Callable[[], nn.Module], arm: str, seed: int, shape: Shape) -> dict[str, object]:
    """Build, start and train a network once.

    Returns:
        How many layers were written, the mean loss over the last steps (each on images not seen before), and the
        accuracy on others afterwards.
    """
    torch.manual_seed(seed)
    model = build()
    written = 0
    if arm != "default":
        data, _ = images(CALIBRATION, shape, 10_000 + seed)
        written = len(hs.initialize(model, data, arm, seed=seed).changed)
        if not written:
            return {"written": 0, "loss": "", "accuracy": ""}
    torch.manual_seed(1000 + seed)  # dropout
    model.train()
    rule = torch.optim.Adam(model.parameters(), RATE)
    xs, ys = images(STEPS * BATCH, shape, seed)
    losses = []
    for x, y in zip(xs.split(BATCH), ys.split(BATCH), strict=True):
        loss = F.cross_entropy(model(x), y)
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(float(loss.detach()))
    model.eval()
    x, y = images(HELD_OUT, shape, 20_000 + seed)
    with torch.no_grad():
        right = float((model(x).argmax(1) == y).double().mean())
    return {"written": written, "loss": round(sum(losses[-LAST:]) / LAST, 4), "accuracy": round(right, 4)}


def smallest_shape(build: Callable[[], nn.Module]) -> Shape:
    """The first shape of images that the network takes in training; none if it takes none."""
    for shape in SHAPES:
        try:
            build().train()(images(2, shape, 0)[0])
        except (RuntimeError, ValueError, AssertionError, IndexError):
            continue
        return shape
    return ()


def finished(out: Path) -> dict[tuple[str, str, int], dict[str, str]]:
    """The runs that are there, by network, arm and seed."""
    if not out.exists():
        return {}
    with out.open() as file:
        return {(r["network"], r["arm"], int(r["seed"])): r for r in csv.DictReader(file)}


def main() -> None:
    """Run what is not there yet; auto first: where it writes nothing there is nothing to compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--doubtful", action="store_true", help="six more seeds where the mean is higher from auto's")
    parser.add_argument("--arms", nargs="*", default=["auto"], help="starts beside the default")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    done = finished(args.out)
    suspects = doubtful(paired(OUT.parent)[0]) if args.doubtful else []
    for name, build in every():
        if args.only and not any(part in name for part in args.only):
            continue
        if args.doubtful and name not in suspects and (name, "auto", MORE[0]) not in done:
            continue
        seeds = MORE if args.doubtful else args.seeds
        wanted = [(arm, seed) for seed in seeds for arm in (*args.arms, "default")]
        wanted = [(arm, seed) for arm, seed in wanted if (name, arm, seed) not in done]
        if not wanted or done.get((name, "auto", 0), {}).get("written") == "0":
            continue
        shape = smallest_shape(build)
        if not shape:
            print(f"{name}: takes none of the shapes", flush=True)
            continue
        for arm, seed in wanted:
            begin = time.perf_counter()
            found = {"network": name, "arm": arm, "seed": seed, "side": shape[0], **train(build, arm, seed, shape)}
            new = not args.out.exists()
            with args.out.open("a", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(found)
            print(found, f"{time.perf_counter() - begin:.1f} s", flush=True)
            if found["written"] == 0 and args.arms == [arm]:
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
