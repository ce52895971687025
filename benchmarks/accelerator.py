"""What starts cost on an accelerator, whether they agree with the CPU, and what waits for what.

    python benchmarks/accelerator.py --out docs/results                 at most five minutes on one GPU
    python benchmarks/accelerator.py --device cpu --small               the same on the CPU, to see that it works

Four parts, each by itself, so that an error in one leaves the others:

* agreement: every method on several networks, on the device and on the CPU, from the same seed;
* cost: starts in evaluation forward passes of the same batch, taken in turns, median of the ratios; Pre-Warm and
  whitening in training steps of Pre-Warm's CNN;
* reads: ``torch.cuda.set_sync_debug_mode("error")`` while layers are visited: what stops the host there is an error;
* throughput: trials of two networks, their steps run one by one, captured as a CUDA graph, and several captured trials
  at a time, each on its own stream; whether their losses are the same.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import trial_streams
from torch import Tensor, nn
from torch.nn import functional as F

import headstart as hs
from headstart.bench.models.builders import resolve_model
from headstart.engine import walk
from headstart.errors import HeadstartError

NETWORKS = ("resnet18", "resnet50", "mobilenet-v1", "vgg16")
STARTS: dict[str, Any] = {
    "within-layer": hs.WithinLayer(before_norm="normalize"),
    "LSUV": "lsuv",
    "within-layer and balance": [hs.WithinLayer(before_norm="normalize"), "balance"],
    "auto": "auto",
}
NEEDS_MORE = ("transfer", "smart-init", "warm-start", "weight-selection", "repeat", "shrink")


class Machine:
    """Where things run.

    Args:
        device: Of torch.
        small: Networks and data small enough for a CPU.
    """

    def __init__(self, device: str, small: bool) -> None:
        self.device, self.small = torch.device(device), small
        self.turns = 1 if small else 5

    @property
    def name(self) -> str:
        """Of the card, or of the processor."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else platform.processor() or "CPU"

    def wait(self) -> None:
        """Until the device has done all work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, action: Callable[[], object]) -> float:
        """Wall time of one call, from an idle device to an idle device."""
        self.wait()
        start = time.perf_counter()
        action()
        self.wait()
        return time.perf_counter() - start

    def peak(self, action: Callable[[], object]) -> float | None:
        """Megabytes at most while it runs; None where that is not counted."""
        if self.device.type != "cuda":
            action()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        action()
        return torch.cuda.max_memory_allocated() / 2**20


def small_networks() -> dict[str, Callable[[], nn.Module]]:
    """Networks of every kind of layer, for 32 samples of 3×16×16."""

    def conv(*norms: nn.Module, groups: int = 1) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            *norms,
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=groups),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 10),
        )

    return {
        "plain": conv,
        "batch norm": lambda: conv(nn.BatchNorm2d(16)),
        "group norm": lambda: conv(nn.GroupNorm(4, 16)),
        "depthwise": lambda: conv(groups=16),
        "grouped": lambda: conv(groups=4),
        "transposed": lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 8, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2048, 10),
        ),
        "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 10)),
    }


def agreement(machine: Machine) -> list[dict[str, Any]]:
    """The largest difference of weights between device and CPU, by method; errors that only one of them gives."""
    images = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = []
    networks = small_networks()
    names = [n for n in hs.list_methods() if not n.startswith(NEEDS_MORE)]
    for method in names[:4] if machine.small else names:
        worst, refused, apart = 0.0, 0, []
        for name, build_network in networks.items():
            torch.manual_seed(0)
            here = build_network()
            there = copy.deepcopy(here).to(machine.device)
            errors = [_error(net, x, method) for net, x in ((here, images), (there, images.to(machine.device)))]
            if errors[0] != errors[1]:
                apart.append(f"{name}: {errors[0] or 'no error'} on the CPU, {errors[1] or 'no error'} on the device")
            if any(errors):
                refused += 1
                continue
            pairs = zip(here.parameters(), there.parameters(), strict=True)
            with torch.no_grad():
                apart_by = [float((a - b.cpu()).abs().max() / a.abs().max().clamp_min(1e-12)) for a, b in pairs]
            worst = max(worst, *apart_by)
        found.append(
            {"method": method, "networks": len(networks), "refused": refused, "difference": worst, "apart": apart}
        )
    return found


def _error(net: nn.Module, images: Tensor, method: str) -> str:
    try:
        hs.initialize(net, images, method)
    except HeadstartError as error:
        return type(error).__name__
    return ""


def cost(machine: Machine) -> list[dict[str, Any]]:
    """Starts in forward passes of the same batch, taken in turns."""
    found = []
    for name in ("cifar-resnet20",) if machine.small else NETWORKS:
        size, batch = (32, 16) if machine.small else (224, 128)
        net = resolve_model(f"headstart:{name}")(3, 1000, (size, size)).to(machine.device)
        x = torch.randn(batch, 3, size, size).to(machine.device)

        def forward(net: nn.Module = net, x: Tensor = x) -> None:
            with torch.no_grad():
                net.eval()(x)

        actions = {"forward": forward, **{k: _start(net, x, m) for k, m in STARTS.items()}}
        for action in actions.values():
            action()  # what is compiled or allocated the first time
        turns = [{k: machine.seconds(action) for k, action in actions.items()} for _ in range(machine.turns)]
        row: dict[str, Any] = {"network": name, "forward_ms": 1e3 * statistics.median(t["forward"] for t in turns)}
        row["ratios"] = {k: statistics.median(t[k] / t["forward"] for t in turns) for k in STARTS}
        row["peak_mb"] = {k: machine.peak(actions[k]) for k in ("forward", "within-layer")}
        found.append(row)
        del net, x, actions, forward
    found.append(_against_a_step(machine))
    return found


def _start(net: nn.Module, x: Tensor, method: Any) -> Callable[[], object]:
    return lambda: hs.initialize(net, x, method)


def _against_a_step(machine: Machine) -> dict[str, Any]:
    net, x, y = cnn(machine)
    step = stepper(net, x, y)
    actions = {"step": step, **{m: _start(net, x, m) for m in ("prewarm", "prewarm:paper", "whitening")}}
    for action in actions.values():
        action()
    turns = [{k: machine.seconds(action) for k, action in actions.items()} for _ in range(machine.turns)]
    ratios = {k: statistics.median(t[k] / t["step"] for t in turns) for k in actions if k != "step"}
    return {"network": "Pre-Warm's CNN", "step_ms": 1e3 * statistics.median(t["step"] for t in turns), "ratios": ratios}


def cnn(machine: Machine) -> tuple[nn.Module, Tensor, Tensor]:
    """Pre-Warm's CNN with a batch of 256 random images."""
    torch.manual_seed(0)
    net = resolve_model("headstart:prewarm-cnn")(3, 10, (32, 32))
    count = 32 if machine.small else 256
    x = torch.rand(count, 3, 32, 32).to(machine.device)  # pixels, as the published rule wants them
    return net.to(machine.device), x, torch.randint(10, (count,)).to(machine.device)


def stepper(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """One training step on fixed tensors, as a function; its loss stays on the device."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=False)
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


@contextmanager
def strict_visits() -> Iterator[None]:
    """Make it an error that the host waits for the device while layers are visited."""
    visit = walk._visit

    def strictly(*args: Any) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            visit(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    walk._visit = strictly
    try:
        yield
    finally:
        walk._visit = visit


def reads(machine: Machine) -> list[dict[str, str]]:
    """Whether a walk waits for the device."""
    if machine.device.type != "cuda":
        return [{"start": start, "result": "only CUDA can tell"} for start in ("within-layer", "LSUV")]
    found = []
    for start in ("within-layer", "LSUV"):
        net = resolve_model("headstart:cifar-resnet20")(3, 10, (32, 32)).to(machine.device)
        x = torch.randn(64, 3, 32, 32, device=machine.device)
        hs.initialize(net, x, STARTS[start])
        with strict_visits():
            try:
                hs.initialize(net, x, STARTS[start])
                result = "never waits"
            except (HeadstartError, RuntimeError) as error:
                result = " ".join(str(error).split())[:200]
        found.append({"start": start, "result": result})
    return found


def throughput(machine: Machine) -> list[dict[str, Any]]:
    """Steps a second of trials."""
    return trial_streams.throughput(machine.device, machine.small)


PARTS: dict[str, Callable[[Machine], Any]] = {
    "agreement": agreement,
    "cost": cost,
    "reads": reads,
    "throughput": throughput,
}


def measure(machine: Machine) -> dict[str, Any]:
    """All parts; what fails is told in the place of its figures."""
    found: dict[str, Any] = {
        "device": machine.name,
        "date": time.strftime("%Y-%m-%d"),
        "headstart": hs.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seconds": {},
    }
    for name, part in PARTS.items():
        began = time.perf_counter()
        try:
            found[name] = part(machine)
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        found["seconds"][name] = round(time.perf_counter() - began, 1)
        print(f"{name}: {found['seconds'][name]} s", file=sys.stderr)
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """The measured part of the page."""
    text = [
        f"On one {found['device']}, {found['date']}, headstart {found['headstart']}, torch {found['torch']},"
        f" Python {found['python']}: {sum(found['seconds'].values()):.0f} seconds in all.",
        "",
    ]
    for name in PARTS:
        part = found[name]
        text += [f"### {name.capitalize()}", ""]
        text += [f"Failed: {part['error']}", ""] if "error" in part else [*TABLES[name](part), ""]
    return text


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Columns of text: the tables of pages are those that are made again from files."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    return ["```text", *lines, "```"]


def _agreement(part: list[dict[str, Any]]) -> list[str]:
    rows = [
        [r["method"], str(r["networks"] - r["refused"]), f"{r['difference']:.1e}", "; ".join(r["apart"]) or "none"]
        for r in part
    ]
    return _table(["method", "networks", "largest difference, of the largest weight", "errors on one side only"], rows)


def _cost(part: list[dict[str, Any]]) -> list[str]:
    *rows, last = part
    head = ["network", "forward", *STARTS, "peak memory: forward", "within-layer"]
    body = [
        [
            r["network"],
            f"{r['forward_ms']:.1f} ms",
            *(f"{r['ratios'][k]:.3g} ×" for k in STARTS),
            *("" if v is None else f"{v:,.0f} MB" for v in r["peak_mb"].values()),
        ]
        for r in rows
    ]
    steps = ", ".join(f"{k} {v:.3g}" for k, v in last["ratios"].items())
    return [*_table(head, body), "", f"In training steps of {last['network']} ({last['step_ms']:.1f} ms): {steps}."]


def _reads(part: list[dict[str, str]]) -> list[str]:
    return _table(["start", "while layers are visited the host"], [[r["start"], r["result"]] for r in part])


def _throughput(part: list[dict[str, Any]]) -> list[str]:
    return [
        "Training steps a second, of all trials together, evaluations included.",
        "",
        *_table(*trial_streams.lines(part)),
    ]


TABLES: dict[str, Callable[[Any], list[str]]] = {
    "agreement": _agreement,
    "cost": _cost,
    "reads": _reads,
    "throughput": _throughput,
}
BEGIN, END = "<!-- measured -->", "<!-- end of what was measured -->"


def write_page(page: Path, found: dict[str, Any]) -> None:
    """Put what was measured between the marks of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text("\n".join([before + BEGIN, *lines(found), END + after]), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the page or print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="default cuda")
    parser.add_argument("--small", action="store_true", help="small enough for a CPU; to try the script")
    parser.add_argument("--out", type=Path, help="folder of accelerator.md and accelerator.json")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no CUDA device. --device cpu --small tries the script without one.")
    found = measure(Machine(args.device, args.small))
    if args.out is None:
        print("\n".join(lines(found)))
        return
    (args.out / "accelerator.json").write_text(json.dumps(found, indent=1) + "\n")
    write_page(args.out / "accelerator.md", found)


if __name__ == "__main__":
    main()
