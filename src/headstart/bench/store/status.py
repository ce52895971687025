"""The progress of an experiment, read from its folder, also during a run."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from headstart.bench.store.claims import LIMIT
from headstart.bench.store.store import Damage, Record, Store

_BREAK = 10.0  # a gap of so many trials' own time between two ends is a break, not work


@dataclass(frozen=True)
class Running:
    """A running trial. A trial of a killed process counts for up to two minutes more.

    Args:
        arm: Its arm.
        seed: Its seed.
        host: Its machine.
        seconds: Seconds since it was claimed.
    """

    arm: str
    seed: int
    host: str
    seconds: float


@dataclass(frozen=True)
class ArmProgress:
    """The progress of one arm.

    Args:
        label: Its name.
        done: Finished seeds, with diverged ones.
        diverged: Finished seeds whose loss was not finite.
        refused: Seeds in which the method refused the model; the next run tries them again.
        missing: Seeds that are not finished.
        failed: Missing seeds whose run failed; the next run tries them again.
    """

    label: str
    done: tuple[int, ...]
    diverged: tuple[int, ...]
    refused: tuple[int, ...]
    missing: tuple[int, ...]
    failed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Status:
    """The progress of an experiment.

    Args:
        arms: The arms, in the experiment's order.
        running: The running trials.
        damaged: Damaged files; the next run repeats their trials.
        total: The number of trials; trials that two arms share count once.
        done: The number of finished trials.
        missing: The number of unfinished trials, without refused ones, which will most likely be refused again.
        refused: The number of refused trials.
        trial_seconds: Median seconds of start and training of a finished trial; None if there is none.
        pace: Seconds from the end of one trial to the next, without breaks; with several workers it is shorter
            than a trial. None if it is not known yet.
    """

    arms: tuple[ArmProgress, ...]
    running: tuple[Running, ...]
    damaged: tuple[Damage, ...]
    total: int
    done: int
    missing: int
    refused: int
    trial_seconds: float | None
    pace: float | None

    @property
    def eta(self) -> float | None:
        """Seconds until all are finished at the pace so far; None if it is not known yet."""
        return 0.0 if not self.missing else None if self.pace is None else self.missing * self.pace

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        return {"eta": self.eta, **asdict(self)}


def status(store: Store) -> Status:
    """Read the progress of an experiment. Nothing is written.

    Args:
        store: The store of an experiment that was at least begun.

    Raises:
        HeadstartError: If the folder holds no experiment.
    """
    plan = store.read_experiment()
    cells = {cell["key"]: cell for cell in reversed(plan["trials"])}  # the first arm of those that share a trial
    found = store.present(cells)
    failed = {key for key, record in found.items() if record.result["status"] == "failed"}
    records = {key: record for key, record in found.items() if key not in failed}
    arms = tuple(
        _arm(arm["label"], [cell for cell in plan["trials"] if cell["arm"] == arm["label"]], records, failed)
        for arm in plan["arms"]
    )
    finished = [key for key, record in records.items() if record.result["status"] != "refused"]
    seconds = [_seconds(records[key]) for key in finished]
    usual = median(seconds) if seconds else None
    running = tuple(_running(store.claims, list(cells.values()), set(finished)))
    ends = [at for key in finished if (at := _changed(store.trials / f"{key}.json")) is not None]
    return Status(
        arms,
        running,
        tuple(store.damaged()),
        len(cells),
        len(finished),
        len(cells) - len(records),
        len(records) - len(finished),
        usual,
        _pace(ends, usual),
    )


def _arm(label: str, cells: Sequence[dict[str, Any]], records: dict[str, Record], failed: set[str]) -> ArmProgress:
    by = {cell["seed"]: records[cell["key"]].result["status"] for cell in cells if cell["key"] in records}
    return ArmProgress(
        label,
        tuple(seed for seed, state in by.items() if state != "refused"),
        tuple(seed for seed, state in by.items() if state == "diverged"),
        tuple(seed for seed, state in by.items() if state == "refused"),
        tuple(cell["seed"] for cell in cells if cell["seed"] not in by),
        tuple(cell["seed"] for cell in cells if cell["key"] in failed),
    )


def _seconds(record: Record) -> float:
    return float(record.result.get("init_seconds", 0.0)) + float(record.result.get("train_seconds", 0.0))


def _pace(ends: Sequence[float], usual: float | None) -> float | None:
    """Mean gap between the ends of trials, without breaks; a trial's own time if there are too few ends."""
    if usual is None:
        return None
    ordered = sorted(ends)
    gaps = [later - earlier for earlier, later in itertools.pairwise(ordered)]
    work = [gap for gap in gaps if gap <= max(60.0, _BREAK * usual)]
    return sum(work) / len(work) if len(work) > 1 and sum(work) > 0 else usual


def _running(folder: Path, cells: Sequence[dict[str, Any]], finished: set[str]) -> list[Running]:
    """Read the claims of unfinished trials that are still renewed."""
    found = []
    now = time.time()
    for cell in cells:
        path = folder / f"{cell['key']}.json"
        renewed = None if cell["key"] in finished else _changed(path)
        if renewed is None or now - renewed > LIMIT:
            continue
        try:
            owner = json.loads(path.read_bytes())
            host, since = str(owner["host"]), float(owner["time"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # being written, or given up this moment
        found.append(Running(cell["arm"], cell["seed"], host, max(0.0, now - since)))
    return found


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
