"""What a large comparison costs beside its trials: reading 10,000 of them, and handing each to where it runs.

    python benchmarks/load.py --out docs/results

Reading: the files of 10,000 trials, 20 arms of 500 seeds, are written, then the work of ``headstart report`` is
timed: analyse and write the page.
Handing out: trials that sleep for a fixed time and do nothing else are run by each executor with as many workers
as there are cores. The overhead is the wall time over the time that the trials sleep, divided by the workers,
without starting the workers; it holds claim, dispatch, result and the file on the disk.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages.write import finish

from headstart.bench import Arm, Experiment, Store, Training, analyse, run
from headstart.bench.report.page import write_report
from headstart.bench.runs.executors import Executor, Finished, InProcess, Processes
from headstart.bench.runs.executors.base import Progress, Silent
from headstart.bench.runs.executors.processes import cores
from headstart.bench.runs.experiment import Trial
from headstart.bench.trials import hardware
from headstart.bench.trials.trial import TrialContext, run_trial

TASK = """
import numpy as np

def load(seed=0):
    draw = np.random.default_rng(0)
    return draw.integers(0, 255, (120, 8, 8), dtype=np.uint8), np.arange(120) % 3
"""
NET = """
import time
from torch import nn

class Sleeper(nn.Sequential):
    slept = False

    def __init__(self, classes):
        super().__init__(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, classes))

    def forward(self, x):
        if self.training and not self.slept:
            self.slept = True
            time.sleep({seconds})
        return super().forward(x)
"""


def experiment(folder: Path, seeds: int, seconds: float = 0.0, arms: int = 2) -> Experiment:
    """Arms on a task of noise, with a model whose training is to sleep."""
    (folder / "data.py").write_text(TASK)
    (folder / "net.py").write_text(NET.format(seconds=seconds))
    return Experiment(
        arms=tuple(Arm(f"draw {draw}", weights_draw=draw) for draw in range(arms)),
        seeds=tuple(range(seeds)),
        task=f"{folder}/data.py:load",
        model=f"{folder}/net.py:Sleeper",
        training=Training(steps=2, batch_size=16, evaluations=2, calibration=16),
        auto=(),
    )


class Made:
    """An executor that computes one trial and returns its result, changed, for all others."""

    def threads(self) -> int:
        """Return torch's number of threads."""
        return torch.get_num_threads()

    def execute(
        self, experiment: Experiment, context: TrialContext, trials: Iterator[Trial], progress: Progress
    ) -> Generator[Finished, None, None]:
        """Yield made-up results."""
        draw = np.random.default_rng(0)
        result: dict[str, Any] = {}
        for trial in trials:
            result = result or run_trial(context, trial.arm, trial.seed)
            yield Finished(trial, {**result, "test_accuracy": 50 + float(draw.normal())}, {})

    def close(self) -> None:
        """Do nothing."""


def reading(trials: int) -> dict[str, Any]:
    """Time the report on many trials."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        many = experiment(folder, trials // 20, arms=20)
        run(many, Store(folder / "store"), executor=Made())
        wrote = time.perf_counter() - began
        store = Store(folder / "store")
        began = time.perf_counter()
        analysis = analyse(store)
        analysed = time.perf_counter() - began
        page = write_report(store, analysis)
        total = time.perf_counter() - began
        began = time.perf_counter()
        kept = run(many, store).kept
        return {
            "trials": trials,
            "write_and_claim_seconds_per_trial": wrote / trials,
            "analyse_seconds": analysed,
            "report_seconds": total,
            "page_megabytes": page.stat().st_size / 2**20,
            "nothing_left_to_run_seconds": time.perf_counter() - began,
            "kept": kept,
        }


class Clock(Silent):
    """Notes when trials end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def end(self, result: dict[str, Any]) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def handing(name: str, executor: Executor, workers: int, seconds: float, trials: int) -> dict[str, Any]:
    """Time trials that sleep. The first of each worker, which starts and prepares it, do not count."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        run(
            experiment(Path(folder), (trials + 2 * workers) // 2, seconds),
            Store(Path(folder) / "store"),
            clock,
            (),
            executor,
        )
    first = 2 * workers - 1
    counted = len(clock.ends) - 1 - first
    ideal = counted * seconds / workers
    ratio = (clock.ends[-1] - clock.ends[first]) / ideal
    return {"executor": name, "workers": workers, "seconds": seconds, "trials": counted, "ratio": ratio}


def main() -> None:
    """Measure, print, write ``load.json``, and rewrite the tables of its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.2, 2.0], help="lengths of a trial")
    parser.add_argument("--count", type=int, default=24, help="trials per worker and length, and at most 16 s of them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    workers = cores()
    read = reading(args.trials)
    print(json.dumps(read, indent=2))
    rows = []
    for seconds in args.seconds:
        for name in ("in process", "--jobs", "--ray local"):
            count = 1 if name == "in process" else workers
            trials = min(args.count, max(1, round(16 / seconds))) * count
            rows.append(handing(name, _executor(name, workers), count, seconds, trials))
            print(json.dumps(rows[-1]))
    where = hardware.provenance()
    machine = (
        f"{where['machine']['processor']}, {where['machine']['cores']} cores, Python {where['versions']['python']}, "
        f"torch {where['versions']['torch']}"
    )
    found = {"machine": machine, "reading": read, "handing_out": rows}
    finish(found, "load", args.out)


def _executor(name: str, workers: int) -> Executor:
    if name == "in process":
        return InProcess()
    if name == "--jobs":
        return Processes(workers, threads=1)
    from headstart.bench.runs.executors.on_ray import OnRay

    return OnRay("local", jobs=workers)


if __name__ == "__main__":
    main()
