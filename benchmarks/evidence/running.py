"""Runs that stop in time and go on later."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.bench import Experiment, Store, run
from headstart.bench.runs.executors.base import Executor, Finished, Progress, Silent
from headstart.bench.runs.executors.in_process import InProcess
from headstart.bench.runs.executors.processes import Processes
from headstart.bench.search import search

_TOLD = 30.0  # seconds between two lines


class OutOfTimeError(Exception):
    """The time that was given is over; what is finished is kept."""


class Until:
    """An executor that begins no trial after a moment.

    Args:
        inner: What runs the trials.
        end: The moment, by `time.monotonic`; None for none.
    """

    def __init__(self, inner: Executor, end: float | None) -> None:
        self._inner, self._end = inner, end

    def threads(self) -> int:
        """Return the number of threads of a trial."""
        return self._inner.threads()

    def execute(
        self, experiment: Any, context: Any, trials: Iterator[Any], progress: Progress
    ) -> Generator[Finished, None, None]:
        """Run trials as long as there is time.

        Raises:
            OutOfTimeError: When it is over and the trials at work are finished.
        """
        yield from self._inner.execute(experiment, context, self._in_time(trials), progress)
        if self._late():
            raise OutOfTimeError

    def close(self) -> None:
        """Let go of the workers."""
        self._inner.close()

    def _late(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def _in_time(self, trials: Iterator[Any]) -> Iterator[Any]:
        while not self._late() and (trial := next(trials, None)) is not None:
            yield trial


class Lines(Silent):
    """Progress as a line now and then.

    Args:
        name: Of what runs.
    """

    def __init__(self, name: str) -> None:
        self._name, self._total, self._done, self._told = name, 0, 0, 0.0

    def begin(self, total: int, kept: int) -> None:
        """Note how many there are."""
        self._total, self._done = total, kept

    def end(self, result: dict[str, Any]) -> None:
        """Say how far it is."""
        self._done += 1
        if time.monotonic() - self._told > _TOLD or self._done == self._total:
            self._told = time.monotonic()
            print(f"{self._name}: {self._done} of {self._total} trials", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Machine:
    """Where trials run, and until when.

    Args:
        device: Of torch.
        jobs: Trials at a time.
        end: When to begin no more, by `time.monotonic`; None for never.
    """

    device: str = "cpu"
    jobs: int = 1
    end: float | None = None

    def executor(self) -> Executor:
        """Make what runs trials."""
        return Until(InProcess() if self.jobs == 1 else Processes(self.jobs), self.end)


def compared(
    name: str, what: Experiment, store: Store, machine: Machine, grid: Mapping[str, Sequence[Any]] | None = None
) -> None:
    """Run a comparison's trials that the store does not hold yet, with a search before if there is a grid.

    Args:
        name: For the lines that tell how far it is.
        what: The comparison.
        store: Where its trials go.
        machine: Where they run.
        grid: Values that each arm chooses among, with each seed for itself.

    Raises:
        OutOfTimeError: The time is over.
    """
    if grid:
        what = search(what, grid, store, progress=Lines(f"{name}, search"), executor=machine.executor())
    run(what, store, Lines(name), sys.argv, machine.executor())
