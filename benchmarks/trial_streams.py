"""Training steps a second of whole trials: one by one, captured as a CUDA graph, and several of those on one device.

A part of ``benchmarks/accelerator.py``. The trials are those of ``headstart compare``: same loop, same executors.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from headstart.bench import Arm, Training, from_arrays
from headstart.bench.models.builders import resolve_model
from headstart.bench.runs.executors import Executor, InProcess, Interleaved
from headstart.bench.runs.executors.base import Silent, Working
from headstart.bench.runs.experiment import Experiment, list_trials
from headstart.bench.tasks.batches import DeviceTask
from headstart.bench.trials.trial import TrialContext

NETWORKS = {"prewarm-cnn": 256, "cifar-resnet20": 128}  # with their batch
STREAMS = (2, 4, 8)
EVALUATIONS = 4  # of which the first ends the warming up


class Pace(Silent):
    """Steps a second of all trials together, from when each has been evaluated once, evaluations included.

    Args:
        trials: How many there are, all at work together.
    """

    def __init__(self, trials: int) -> None:
        self._trials = trials
        self._seen: list[tuple[float, int]] = []

    def working(self, trials: Sequence[Working]) -> None:
        """Note how far they are."""
        if len(trials) == self._trials and all(trial.done for trial in trials):
            self._seen.append((time.perf_counter(), sum(trial.done for trial in trials)))

    @property
    def steps_a_second(self) -> float:
        """From the first look to the last."""
        (start, few), (end, many) = self._seen[0], self._seen[-1]
        return (many - few) / (end - start)


def throughput(device: torch.device, small: bool) -> list[dict[str, Any]]:
    """Steps a second in all, and by how much the losses of the ways differ.

    Args:
        device: Where to train.
        small: Few steps and images.
    """
    return [_network(name, batch, device, small) for name, batch in NETWORKS.items()]


def _network(name: str, batch: int, device: torch.device, small: bool) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (300 if small else 8000, 32, 32, 3), generator=draw, dtype=torch.uint8)
    labels = torch.randint(10, (len(images),), generator=draw)
    task = from_arrays("random", images.numpy(), labels.numpy())
    training = Training(
        steps=8 if small else 400,
        batch_size=32 if small else batch,
        evaluations=EVALUATIONS,
        augment=("flip", "crop"),
        optimizer="sgd",
        lr=0.01,
        device=str(device),
    )
    arms = (Arm("default"),)
    context = TrialContext(
        DeviceTask(task, str(device), "contiguous"),
        task.fingerprint(),
        resolve_model(f"headstart:{name}"),
        training,
        arms,
        test=False,
    )
    captured = replace(context, training=replace(training, capture=True))
    (eager,), pace = _run(context, InProcess(), 1)
    found: dict[str, Any] = {"network": name, "batch": training.batch_size, "eager": pace}
    (one,), found["captured"] = _run(captured, InProcess(), 1)
    found["why eager"] = one["eager"]
    found["difference of losses"] = _apart(eager, one)
    alone = [one, *(_run(captured, InProcess(), 1, first)[0][0] for first in range(1, 2 if small else max(STREAMS)))]
    for streams in STREAMS[:1] if small else STREAMS:
        several, found[f"{streams} streams"] = _run(captured, Interleaved(streams, steps=1 if small else 32), streams)
        pairs = zip(several, alone, strict=False)
        found[f"{streams} streams, the same losses"] = all(a["curve"] == b["curve"] for a, b in pairs)
    return found


def _run(context: TrialContext, executor: Executor, seeds: int, first: int = 0) -> tuple[list[dict[str, Any]], float]:
    """Results of a trial for each seed, in their order, and the steps a second of all."""
    chosen = tuple(range(first, first + seeds))
    experiment = Experiment(context.arms, seeds=chosen, training=context.training, exploratory=True)
    trials, pace = list_trials(experiment, context), Pace(seeds)
    done = {t.seed: result for t, result, _ in executor.execute(experiment, context, iter(trials), pace)}
    return [done[trial.seed] for trial in trials], pace.steps_a_second


def _apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    losses = [[point["train_loss"] for point in result["curve"][1:]] for result in (one, other)]
    return max(abs(a - b) / statistics.fmean(losses[0]) for a, b in zip(*losses, strict=True))


def lines(found: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table."""
    streams = [key for key in found[0] if key.endswith("streams")]
    head = [
        "network",
        "batch",
        "one by one",
        "captured",
        *streams,
        "captured losses differ by",
        "on streams they are the same",
    ]
    rows = [
        [
            row["network"],
            str(row["batch"]),
            *(f"{row[key]:,.0f}" for key in ("eager", "captured", *streams)),
            f"not captured: {row['why eager']}" if row["why eager"] else f"{row['difference of losses']:.1e}",
            "yes" if all(row[f"{key}, the same losses"] for key in streams) else "no",
        ]
        for row in found
    ]
    return head, rows
