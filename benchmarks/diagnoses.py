"""Can `diagnose` be believed? Alarms at authors' own starts, planted illnesses, and what the printed mends are worth.

    python benchmarks/diagnoses.py starts      each architecture of timm and torchvision as its authors start it
    python benchmarks/diagnoses.py planted     illnesses planted into architectures: found, with the right culprit?
    python benchmarks/diagnoses.py mends       loss after 60 steps with and without each mend
    python benchmarks/diagnoses.py table --out docs/results

Each architecture runs in a process of its own, with a limit on its memory. What is finished is a line in
``runs/diagnoses-*.jsonl`` and is not run again. Those of ``starts`` hold what was measured: ``table`` applies the
present rules to it; rows of what has no line stay as they are. ``starts`` begins with what was never measured, or on
the fewest samples. The images are random fields with the long waves of photographs.
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import importlib
import json
import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from architectures import build, names, packages
from calibration import machine
from pages.write import finish
from patients import CASES, patient, train
from planting import ILLNESSES

import headstart as hs
from headstart.diagnosis import diagnose as room
from headstart.diagnosis.mends import anew
from headstart.diagnosis.rows import Finding, LayerHealth
from headstart.diagnosis.rules import judge
from headstart.diagnosis.scene import Scene

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
MEMORY = 5 << 30
SECONDS = 300
BATCH = 32
SEEDS = range(3)
PATIENTS = [
    *(
        "timm/resnet10t",
        "timm/convnext_atto",
        "timm/vit_tiny_patch16_224",
        "timm/mobilenetv3_small_050",
        "torchvision/squeezenet1_0",
    ),
    *("timm/regnety_002", "timm/efficientnet_b0", "timm/mixer_s32_224", "timm/ghostnet_050", "timm/poolformer_s12"),
    *("torchvision/densenet121", "torchvision/swin_t", "torchvision/resnet18"),
]


def start(name: str) -> dict[str, Any]:
    """Measure one architecture at its authors' start."""
    model, x = build(name, BATCH)
    return {"side": x.shape[-1]} | observed(model, x)


def plant(name: str) -> dict[str, Any]:
    """Plant every illness into one architecture, each into a fresh one."""
    healthy = hs.diagnose(*build(name, BATCH))
    found: dict[str, Any] = {}
    for illness, make in ILLNESSES.items():
        planted = make(*build(name, BATCH), healthy)
        if planted is not None:
            seen = hs.diagnose(planted.model, planted.x)
            first = [[f.kind, f.layers[0], f.text] for f in seen.findings]
            found[illness] = {"ended": planted.hit(seen), "culprits": planted.culprits[:4], "findings": first}
    return {"illnesses": found, "now": {k: v["ended"] for k, v in found.items()}}


def mend(name: str) -> dict[str, Any]:
    """Train one ill network as it is, and after the mend that its diagnosis prints."""
    illness, network, kind, seed = name.split("/")
    model, x = patient(illness, network, int(seed))
    twin = copy.deepcopy(model)
    without = train(twin, int(seed))
    mends = [f for f in hs.diagnose(model, x).findings if f.kind == kind]
    codes = [f.code or anew(model, f.layers) for f in mends[:1]]  # what is not printed is tried all the same
    told: dict[str, Any] = {"code": codes, "printed": any(f.code for f in mends), "without": without}
    for code in codes:
        exec(code, {"hs": hs, "torch": torch, "model": model, "data": x})
    told["left"] = [f.kind for f in hs.diagnose(model, x).findings]
    told["with"] = train(model, int(seed))
    return told | {"now": [round(without, 3), round(told["with"], 3)]}


def observed(model: torch.nn.Module, x: Any) -> dict[str, Any]:
    """What a diagnosis saw: its rows and facts."""
    kept: list[Scene] = []
    judge = room.judge

    def keep(diagnosis: hs.Diagnosis, scene: Scene) -> Any:
        kept.append(scene)
        return judge(diagnosis, scene)

    room.judge = keep  # type: ignore[assignment]
    try:
        found = hs.diagnose(model, x)
    finally:
        room.judge = judge
    plain = found.to_dict()
    scene = {k: sorted(v) if isinstance(v, set) else v for k, v in asdict(kept[0]).items()}
    inputs = {k: plain[k] for k in ("input_mean", "input_std", "input_across_sample_std", "samples", "seconds")}
    return {"rows": plain["rows"], "scene": scene, "now": [f["kind"] for f in plain["findings"]]} | inputs


def apart(work: Callable[[str], dict[str, Any]], name: str) -> dict[str, Any]:
    """Do a piece of work in a process of its own."""
    ours, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        try:
            theirs.send(work(name))
        except BaseException as error:  # the line says what happened
            theirs.send({"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})

    process = multiprocessing.get_context("fork").Process(target=child)
    begin = time.perf_counter()
    process.start()
    theirs.close()
    try:
        found: dict[str, Any] = ours.recv() if ours.poll(SECONDS) else {"failed": f"not done after {SECONDS} seconds"}
    except EOFError:
        found = {"failed": "the process ended without a word"}
    process.kill()
    process.join()
    return {"name": name, "took": round(time.perf_counter() - begin, 2)} | found


def resume(path: Path, todo: Iterable[str], work: Callable[[str], dict[str, Any]], until: float) -> None:
    """Do what has no line yet."""
    done = set(lines(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in todo:
        if name in done:
            continue
        if time.perf_counter() > until:
            print("out of time; run again to go on")
            return
        found = apart(work, name)
        with path.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(name, found["took"], found.get("failed", found.get("now", "")), flush=True)


def lines(path: Path) -> dict[str, dict[str, Any]]:
    """The finished work by name."""
    if not path.exists():
        return {}
    return {line["name"]: line for line in map(json.loads, path.read_text().splitlines())}


def judged(line: dict[str, Any]) -> list[Finding]:
    """Apply the present rules to what was measured."""
    rows = [LayerHealth(**{**row, "shape": tuple(row["shape"])}) for row in line["rows"]]
    facts = {k: set(v) if isinstance(getattr(Scene(), k), set) else v for k, v in line["scene"].items()}
    inputs = {k: line[k] for k in ("input_mean", "input_std", "input_across_sample_std", "samples")}
    return judge(hs.Diagnosis("", rows, **inputs), Scene(**facts))


def half(name: str) -> str:
    """Which half an architecture is in: thresholds are set on one, and judged by the other."""
    return ("set", "judged")[hashlib.sha256(name.encode()).digest()[0] % 2]


def old(line: dict[str, Any]) -> list[str]:
    """The kinds of finding by the rules before these, as far as they are about signals: for the column of the page."""
    kinds = []
    rows, scene = line["rows"], line["scene"]
    alive = [
        r
        for r in rows
        if r["output_std"] and r["across_sample_std"] is not None and r["name"] not in scene["batch_normed"]
    ]
    free = [r for r in rows if r["name"] not in scene["normed"]]
    ratios = [r["gradient_ratio"] for r in free if r["gradient_ratio"]]
    stds = [r["output_std"] for r in free if r["output_std"] is not None and "starts at zero" not in r["notes"]]
    if any(r["across_sample_std"] < 1e-3 * r["output_std"] for r in alive if "starts at zero" not in r["notes"]):
        kinds.append("signals lost")
    if stds and min(stds) < 1e-3:
        kinds.append("activations vanish")
    if stds and max(stds) > 1e3:
        kinds.append("activations explode")
    if ratios and max(ratios) > 1e3 * min(ratios) and not scene["quiet"]:
        kinds.append("gradient spread")
    return kinds


def tables(runs: Path, out: Path) -> None:
    """Write the files and the tables of the page."""
    starts = []
    seen = set((Path(__file__).parent / "architectures-seen.txt").read_text().split())
    for name, line in sorted(lines(runs / "diagnoses-starts.jsonl").items()):
        found = [] if "failed" in line else judged(line)
        starts.append(
            {
                "name": name,
                "half": half(name),
                "seen": "yes" if name in seen else "",
                "side": line.get("side", ""),
                "samples": line.get("samples", ""),
                "layers": len(line.get("rows", [])),
                "before": ", ".join([] if "failed" in line else old(line)),
                "findings": ", ".join(f.kind for f in found),
                "evidence": " ".join(f.text for f in found),
                "failed": line.get("failed", ""),
            }
        )
    planted = [
        {"name": name, "illness": illness, "ended": told["ended"], "culprit": told["culprits"][0]}
        | {"findings": "; ".join(f"{kind}: {first}" for kind, first, _ in told["findings"])}
        for name, line in sorted(lines(runs / "diagnoses-planted.jsonl").items())
        for illness, told in line.get("illnesses", {}).items()
    ]
    mends = []
    for name, line in lines(runs / "diagnoses-mends.jsonl").items():
        illness, network, kind, seed = name.split("/")
        row = {"illness": illness, "network": network, "kind": kind, "seed": seed, "without": line.get("without", "")}
        told = {"printed": "yes" if line.get("printed") else "", "code": "; ".join(filter(None, line.get("code", [])))}
        mends.append(row | {"with": line.get("with", "")} | told)
    for part, rows, by in (
        ("starts", starts, ("name",)),
        ("planted", planted, ("name",)),
        ("mends", mends, ("illness", "network", "kind")),
    ):
        update(out / f"diagnoses-{part}.csv", rows, by)
    timm = packages()
    about = {
        "commands": [f"python benchmarks/diagnoses.py {part}" for part in ("starts", "planted", "mends")],
        "machine": machine(),
        "timm": timm.__version__,
        "torchvision": importlib.import_module("torchvision").__version__,
        "batch": BATCH,
    }
    finish(about, "diagnoses", out)


def by_samples(architectures: list[str]) -> list[str]:
    """First those that were never measured, then those on the fewest samples."""
    with (RESULTS / "diagnoses-starts.csv").open(newline="") as file:
        known = {row["name"]: int(row["samples"] or 0) for row in csv.DictReader(file)}
    return sorted(architectures, key=lambda name: known.get(name, 0))


def update(path: Path, rows: list[dict[str, Any]], by: tuple[str, ...]) -> None:
    """Write rows in place of those of the same name, or of the same names together; others stay as they are."""
    old = []
    if path.exists():
        with path.open(newline="") as file:
            old = list(csv.DictReader(file))
    told = {tuple(row[k] for k in by) for row in rows}
    kept = [row for row in old if tuple(row[k] for k in by) not in told]
    everything = sorted([*kept, *rows], key=lambda row: row["name"]) if "name" in by else [*kept, *rows]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(everything[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(everything)


def main() -> None:
    """Run a part, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("starts", "planted", "mends", "table"))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the finished work")
    parser.add_argument("--out", type=Path, help="folder of diagnoses*.csv and of their page")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long; run again to go on")
    args = parser.parse_args()
    until = time.perf_counter() + args.seconds
    if args.part == "table":
        tables(args.runs, args.out)
    if args.part == "starts":
        packages()
        resume(args.runs / "diagnoses-starts.jsonl", by_samples(names()), start, until)
    elif args.part == "planted":
        packages()
        resume(args.runs / "diagnoses-planted.jsonl", PATIENTS, plant, until)
    elif args.part == "mends":
        todo = [
            f"{i}/{net}/{kind}/{seed}" for i, nets, kinds in CASES for net in nets for kind in kinds for seed in SEEDS
        ]
        resume(args.runs / "diagnoses-mends.jsonl", todo, mend, until)


if __name__ == "__main__":
    main()
