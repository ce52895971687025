"""What calibration costs, against a plain forward pass and against the PyPI package lsuv 0.3.0.

    python benchmarks/calibration.py --out docs/results

For every network, one process takes turns: an evaluation forward pass of a batch of 128, within-layer
normalization of every layer, LSUV of every layer; ``lsuv`` 0.3.0 has one turn. Ratios are taken turn by turn
and their median is reported, because machines drift. Peak memory comes from fresh processes that do one of
the things only. A fill of every layer is timed once, in such a process, between two forward passes. Pre-Warm is timed
against a training step of its own network.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pages.write import finish
from torch import Tensor, nn
from zoo import build

import headstart as hs

NETWORKS = ("cifar-resnet20", "cifar-resnet56", "resnet18", "resnet50", "mobilenet-v1", "vgg16")
WITHIN = hs.WithinLayer(before_norm="normalize")
BALANCED = [WITHIN, hs.Balance()]
FILLED = ("resnet18", "vgg16")  # with every fill; the others with k-means alone
FILLS = ("orthonormal", "pca", "zca", "kmeans", "patches")
BATCH = 128
CPU_TIME = "--cpu-time" in sys.argv  # also in the processes that this one starts
clock = time.process_time if CPU_TIME else time.perf_counter


def forward(model: nn.Module, x: Tensor) -> None:
    """One plain evaluation pass."""
    model.eval()
    with torch.no_grad():
        model(x)


def peer(model: nn.Module, x: Tensor) -> None:
    """LSUV as the PyPI package does it."""
    from lsuv import lsuv_with_singlebatch

    lsuv_with_singlebatch(model, x, verbose=False)


def seconds(action: Callable[[], object]) -> float:
    """Time of one call, without Python's garbage collector (as in timeit)."""
    gc.collect()
    gc.disable()
    start = clock()
    try:
        action()
        return clock() - start
    finally:
        gc.enable()


def channel_errors(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Largest departures from mean 0 and deviation 1 over all channels of all layers, seen by plain hooks."""
    worst = {"mean": 0.0, "std": 0.0}

    def look(module: nn.Module, _: object, output: Tensor) -> None:
        axis = 1 if output.dim() == 4 else output.dim() - 1
        rows = output.double().movedim(axis, 0).flatten(1)
        worst["mean"] = max(worst["mean"], float(rows.mean(1).abs().max()))
        worst["std"] = max(worst["std"], float((rows.std(1, correction=0) - 1).abs().max()))

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [m.register_forward_hook(look) for m in layers]
    forward(model, x)
    for handle in handles:
        handle.remove()
    return worst


def layer_stds(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Least and largest deviation of whole layer outputs, batch norms as they act in training."""
    found: list[float] = []
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [m.register_forward_hook(lambda _m, _i, out: found.append(float(out.double().std()))) for m in layers]
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    model.eval()
    for module in model.modules():
        module.training = isinstance(module, nn.BatchNorm2d)
    with torch.no_grad():
        model(x)
    model.load_state_dict(kept)
    for handle in handles:
        handle.remove()
    return min(found), max(found)


def images(size: int) -> Tensor:
    """A standard normal batch: timing does not depend on what the pixels show."""
    return torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))


def measure(name: str, rounds: int, with_peer: bool) -> dict[str, Any]:
    """Time one network."""
    torch.manual_seed(0)
    model, size = build(name)
    x = images(size)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    turns: dict[str, list[float]] = {"forward": [], "within": [], "balance": [], "lsuv": []}
    forward(model, x)
    hs.initialize(model, x, WITHIN)  # warm up
    for _ in range(rounds):
        turns["forward"].append(seconds(lambda: forward(model, x)))
        turns["within"].append(seconds(lambda: hs.initialize(model, x, WITHIN)))
        turns["balance"].append(seconds(lambda: hs.initialize(model, x, BALANCED)))
        turns["lsuv"].append(seconds(lambda: hs.initialize(model, x, "lsuv")))
    result: dict[str, Any] = {"network": name, "image": size, "batch": BATCH, "seconds": turns}
    hs.initialize(model, x, WITHIN)
    result["after_within"] = channel_errors(model, x)
    model.load_state_dict(start)  # LSUV leaves biases alone: give it those of a fresh model
    hs.initialize(model, x, "lsuv")
    result["after_lsuv"] = layer_stds(model, x)
    if with_peer:
        model.load_state_dict(start)
        before = seconds(lambda: forward(model, x))
        result["peer_seconds"] = seconds(lambda: peer(model, x))
        result["peer_forward"] = statistics.median([before, seconds(lambda: forward(model, x))])
        result["after_peer"] = layer_stds(model, x)
    return result


def high_water() -> int:
    """Largest resident memory of this process so far, in kB (getrusage would count the parent's too)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def peak(name: str, what: str) -> None:
    """Print the peak memory of this process after doing one thing (run in a process of its own)."""
    torch.manual_seed(0)
    model, size = build(name)
    x = images(size)
    idle = high_water()
    if what == "forward":
        forward(model, x)
    else:
        hs.initialize(model, x, WITHIN if what == "within" else what)
    print(json.dumps({"peak": high_water(), "idle": idle}))


def fill(name: str, kind: str) -> None:
    """Print what one fill of every layer takes, and the peak memory (run in a process of its own)."""
    torch.manual_seed(0)
    model, size = build(name)
    x = images(size)
    forward(model, x)
    passes = [seconds(lambda: forward(model, x))]
    spent = seconds(lambda: hs.initialize(model, x, hs.WithinLayer(fill=kind, before_norm="normalize")))
    passes.append(seconds(lambda: forward(model, x)))
    row = {"network": name, "image": size, "fill": kind, "seconds": spent, "passes": passes, "peak": high_water()}
    print(json.dumps(row))


def peaks(name: str) -> dict[str, dict[str, int]]:
    """Peak memory in kB of fresh processes, with what each held before it began."""
    return {what: fresh("--peak", name, what) for what in ("forward", "within", "lsuv")}


def fresh(*arguments: str) -> dict[str, Any]:
    """What this program prints last in a process of its own."""
    command = [sys.executable, __file__, *arguments, *["--cpu-time"] * CPU_TIME]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


def prewarm(rounds: int) -> dict[str, Any]:
    """Pre-Warm of 64 filters on 256 colour images of 32 x 32, against one training step on that batch."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 64, 256), nn.ReLU(), nn.Linear(256, 10)),
    )
    # Smooth images, not noise: k-means has something to find, as on photographs.
    coarse = torch.rand(256, 3, 8, 8)
    x = nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    y = torch.randint(10, (256,))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)

    def step() -> None:
        net.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    specs = {"prewarm": hs.PreWarm(), "prewarm:paper": hs.PreWarm.paper(), "whitening": hs.Whitening()}
    turns: dict[str, list[float]] = {"step": [], **{k: [] for k in specs}}
    step()
    for i in range(rounds):
        turns["step"].append(seconds(step))
        for label, method in specs.items():
            turns[label].append(seconds(lambda m=method, s=i: hs.initialize(net, x, m, seed=s)))  # type: ignore[misc]
    return {"seconds": turns}


def machine() -> str:
    """One line on where this ran."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    here = f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{here}; Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, help="folder of calibration.json and of its page, whose tables are rewritten"
    )
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--cpu-time", action="store_true", help="count the processor's time on one thread: other work may run beside"
    )
    parser.add_argument("--no-peer", action="store_true", help="leave lsuv 0.3.0 out (it takes minutes)")
    parser.add_argument("--peak", nargs=2, metavar=("NETWORK", "WHAT"), help=argparse.SUPPRESS)
    parser.add_argument("--fill", nargs=2, metavar=("NETWORK", "FILL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if CPU_TIME:
        torch.set_num_threads(1)
    if args.peak or args.fill:
        peak(*args.peak) if args.peak else fill(*args.fill)
        return
    found: dict[str, Any] = {
        "command": f"python benchmarks/calibration.py {' '.join(sys.argv[1:])}",
        "machine": machine(),
        "rounds": args.rounds,
        "clock": "processor" if CPU_TIME else "wall",
        "networks": [],
        "fills": [],
    }
    found["prewarm"] = prewarm(3 * args.rounds)
    for name in args.networks:
        print(f"{name} …", file=sys.stderr, flush=True)
        row = measure(name, args.rounds, not args.no_peer)
        row["memory"] = peaks(name)
        found["networks"].append(row)
        found["fills"] += [fresh("--fill", name, kind) for kind in (FILLS if name in FILLED else ("kmeans",))]
    finish(found, "calibration", args.out)


if __name__ == "__main__":
    main()
