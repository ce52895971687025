"""`auto` and `diagnose` on the smallest model of each of timm's modules: what they do, and whether anything breaks.

    python benchmarks/sweep.py --out docs/results [--again] [names of modules]

Each model runs in a process of its own, which may take 4 GiB, ten minutes of computing, and ten times as long in all if
it waits. A model that is finished is
a line in ``runs/sweep.jsonl``; what has a line is not run again, so the sweep goes on where it was stopped. The images
are random fields with the long waves of photographs: they serve to run the code, not to judge starts.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import json
import multiprocessing
import re
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from calibration import machine
from pages import sweep
from pages.check import Page, write_page
from torch import Tensor, nn
from torch.nn import functional as F

import headstart as hs

MEMORY = 4 << 30
SECONDS = 600
WAIT = 10 * SECONDS  # in all: a process that waits takes no time of computing
BATCH = 8
SIDES = (64, 96, 128, 160)
CLASSES = 10


def zoo() -> Any:
    """Import timm; beside a CPU-only torch two operators of torchvision need a schema first."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
                del sys.modules[module]
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        timm = importlib.import_module("timm")
    timm.keep = library  # the schemas live as long as this object
    return timm


def smallest(module: str) -> str:
    """Name the model of a module that has the fewest parameters."""
    timm = zoo()
    sizes = {
        name: size(lambda name=name: timm.create_model(name, num_classes=CLASSES))
        for name in timm.list_models(module=module)
    }
    return min(sizes, key=lambda name: (sizes[name], name))


def size(build: Callable[[], nn.Module]) -> float:
    """Count a model's parameters without giving it memory, if it can be built so; infinite if it cannot be built."""
    for device in ("meta", "cpu"):  # some compute with their tensors while they are built
        with contextlib.suppress(Exception), torch.device(device):
            return parameters(build())
    return float("inf")


def parameters(model: nn.Module) -> int:
    """Count them."""
    return sum(p.numel() for p in model.parameters())


def images(side: int, channels: int) -> Tensor:
    """A batch of random fields with long waves, mean 0 and deviation 1."""
    draws = torch.Generator().manual_seed(0)
    x = torch.zeros(BATCH, channels, side, side)
    for cells in (2, 4, 8, 16, 32):
        field = torch.randn(BATCH, channels, cells, cells, generator=draws)
        x += F.interpolate(field, (side, side), mode="bicubic") / cells**0.5
    return (x - x.mean()) / x.std()


def fitting(model: nn.Module, config: dict[str, Any]) -> Tensor:
    """The smallest images that the model takes: from 64 pixels on, its own size last."""
    channels, *own = config.get("input_size", (3, 224, 224))
    refused: Exception | None = None
    for side in [*(s for s in SIDES if s < own[0] and not config.get("fixed_input_size")), own[0]]:
        x = images(side, channels)
        try:
            with torch.no_grad():
                model.eval()(x[:2])
        except Exception as error:
            refused = error
            continue
        return x
    raise RuntimeError(f"no size of images runs: {refused}")


def attempt(call: Callable[[], Any], model: nn.Module) -> dict[str, Any]:
    """Make a call; say how it ended, how long it took, and after an error whether the model is as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = time.perf_counter()
    try:
        result, ended = call(), "done"
    except hs.HeadstartError as error:
        result, ended = error, "refused"
    except Exception as error:
        result, ended = error, "foreign exception"
    told: dict[str, Any] = {"ended": ended, "seconds": round(time.perf_counter() - start, 2)}
    if ended != "done":
        message = re.sub(r"/\S*/site-packages/", "", " ".join(str(result).split()))  # no folder of the machine
        told["error"] = f"{type(result).__name__}: {message}"
        after = model.state_dict()
        told["unharmed"] = all(torch.equal(after[name], value) for name, value in before.items())
    else:
        told["result"] = result
    return told


def one(name: str) -> dict[str, Any]:
    """Run `diagnose`, `auto`, and `diagnose` again, on one model."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 10))
    warnings.simplefilter("ignore")
    timm = zoo()
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES)
    x = fitting(model, model.default_cfg if isinstance(model.default_cfg, dict) else vars(model.default_cfg))
    model.train()
    found: dict[str, Any] = {"parameters": parameters(model), "side": x.shape[-1]}
    for step, call in {
        "diagnose": lambda: hs.diagnose(model, x),
        "auto": lambda: hs.initialize(model, x),
        "diagnose_after": lambda: hs.diagnose(model, x),
    }.items():
        told = attempt(call, model)
        result = told.pop("result", None)
        if isinstance(result, hs.Report):
            told["layers"], told["changed"] = len(result.rows), len(result.changed)
            told["findings"] = list(result.findings)
            with torch.no_grad():
                told["finite"] = all(bool(p.isfinite().all()) for p in model.parameters())
        elif result is not None:
            told["findings"] = sorted({f.kind for f in result.findings})
        found[step] = told
    found["gigabytes"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return found


def child(work: Callable[[str], Any], name: str) -> Any:
    """Do something in a process of its own, forked from a server that has imported everything once.

    Raises:
        RuntimeError: It failed, or the process ended.
    """
    server = multiprocessing.get_context("forkserver")
    receiver, sender = server.Pipe(duplex=False)
    process = server.Process(target=tell, args=(sender, work, name), daemon=True)
    process.start()
    sender.close()
    try:
        failed, found = answer(receiver, process)
    finally:
        process.kill()
        process.join()
    if failed:
        raise RuntimeError(found)
    return found


def answer(receiver: Any, process: Any) -> tuple[bool, Any]:
    """Wait for what a child sends: whether it failed, and what it found or how it ended."""
    if not receiver.poll(WAIT):
        return True, f"waited: nothing came in {WAIT} seconds, of which fewer than {SECONDS} were computing"
    try:
        failed, found = receiver.recv()
    except EOFError:
        process.join()
        long = process.exitcode == -signal.SIGXCPU
        return True, f"not done after {SECONDS} seconds" if long else f"it ended with {process.exitcode}"
    return failed, found


def tell(sender: Any, work: Callable[[str], Any], name: str) -> None:
    """In the child: do it, and send what came of it."""
    try:
        sender.send((False, work(name)))
    except BaseException as error:
        sender.send((True, f"{type(error).__name__}: {' '.join(str(error).split())}"))


def run(module: str, name: str | None) -> dict[str, Any]:
    """Run a module's smallest model."""
    found: dict[str, Any] = {"module": module, "model": name or ""}
    try:
        found["model"] = name or child(smallest, module)
        return found | child(one, found["model"])
    except RuntimeError as error:
        return found | {"failed": str(error)}


def ends(told: dict[str, Any]) -> str:
    """How a call ended, in a cell."""
    if told["ended"] == "done":
        return "done" if told.get("finite", True) else "done, not finite"
    return f"{told['ended']}{'' if told['unharmed'] else ', model harmed'}: {told['error']}"


def row(found: dict[str, Any]) -> dict[str, Any]:
    """One model's row of the table."""
    cells = {key: found.get(key, "") for key in ("module", "model", "parameters", "side", "failed")}
    if "failed" in found:
        if "allocate memory" in found["failed"]:
            cells["failed"] = f"does not fit into {MEMORY >> 30} GiB"
        return cells
    cells["auto"], cells["diagnose"] = ends(found["auto"]), ends(found["diagnose"])
    cells["layers"], cells["written"] = found["auto"].get("layers", ""), found["auto"].get("changed", "")
    for key, step in (("before", "diagnose"), ("after", "diagnose_after")):
        cells[key] = ", ".join(found[step].get("findings", []))
    if found["diagnose_after"]["ended"] != "done":
        cells["diagnose"] = ends(found["diagnose_after"])
    return cells


def main() -> None:
    """Run what has no line yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="default: all of timm's")
    parser.add_argument("--out", type=Path, help="folder of sweep.csv and of its page, whose tables are rewritten")
    parser.add_argument("--runs", type=Path, default=Path("runs/sweep.jsonl"), help="the finished models, a line each")
    parser.add_argument("--again", action="store_true", help="run also those that have a line")
    args = parser.parse_args()
    done: dict[str, dict[str, Any]] = {}
    if args.runs.exists():
        done = {line["module"]: line for line in map(json.loads, args.runs.read_text().splitlines())}
    args.runs.parent.mkdir(parents=True, exist_ok=True)
    timm = zoo()
    multiprocessing.get_context("forkserver").set_forkserver_preload(["__main__"])
    for module in args.modules or timm.list_modules():
        if module in done and not args.again:
            continue
        done[module] = run(module, done.get(module, {}).get("model"))
        with args.runs.open("a") as lines:
            lines.write(json.dumps(done[module]) + "\n")
        print(" | ".join(map(str, row(done[module]).values())), flush=True)
    if args.out:
        write_table([row(done[module]) for module in sorted(done)], args.out, timm)


def write_table(rows: list[dict[str, Any]], out: Path, timm: Any) -> None:
    """Write sweep.csv, sweep.json with what was run, and the tables of the page.

    Rows of modules that were not run now stay, and then sweep.json does, too: it is about most of them.
    """
    fields = ("module", "model", "parameters", "side", "layers", "auto", "written", "diagnose", "before", "after")
    told = {found["module"] for found in rows}
    kept: list[dict[str, Any]] = []
    if (out / "sweep.csv").exists():
        with (out / "sweep.csv").open(newline="") as file:
            kept = [old for old in csv.DictReader(file) if old["module"] not in told]
    with (out / "sweep.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, (*fields, "failed"), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*kept, *rows], key=lambda found: str(found["module"])))
    about = {
        "command": "python benchmarks/sweep.py --out docs/results",
        "machine": machine(),
        "timm": timm.__version__,
        "modules": len(timm.list_modules()),
        "batch": BATCH,
    }
    if not kept:
        (out / "sweep.json").write_text(json.dumps(about, indent=1) + "\n")
    if (out / "sweep.md").exists():
        write_page(out / "sweep.md", out, Page(sweep.page))


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # the server that children are forked from
    zoo()
