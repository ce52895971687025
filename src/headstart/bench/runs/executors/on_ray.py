"""Run trials on Ray: on the cores and GPUs of this machine, or of a cluster."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headstart.bench.runs.executors.base import Finished, Working
from headstart.bench.runs.executors.processes import LOOK, RETRIES, cores
from headstart.bench.runs.executors.worker import Job, Reply, work
from headstart.errors import HeadstartError, needs_extra

if TYPE_CHECKING:
    from headstart.bench.runs.executors.base import Progress
    from headstart.bench.runs.experiment import AnyExperiment, Ground, Trial

LOCAL = "local"


class OnRay:
    """Runs trials as Ray tasks. Ray places them, and repeats those whose worker or machine was lost.

    Args:
        address: ``"local"`` for a Ray of our own on this machine, which ends with the run, or a cluster's
            address: ``"auto"``, ``"HOST:PORT"`` or ``"ray://HOST:PORT"``. A Ray that this process is
            already connected to is used.
        jobs: Trials at a time; by default as many as fit.
        gpus_per_trial: GPUs per trial. A fraction lets trials share a GPU; by default as many as a trial trains on.
        threads: The threads of each trial, and the cores that Ray reserves for it.

    Raises:
        HeadstartError: A number is out of range.
        MissingExtraError: If Ray is not installed.
    """

    def __init__(
        self, address: str = LOCAL, jobs: int | None = None, gpus_per_trial: float | None = None, threads: int = 1
    ) -> None:
        if (jobs is not None and jobs < 1) or threads < 1:
            raise HeadstartError("The numbers of jobs and of threads must be at least 1.")
        if gpus_per_trial is not None and not (
            0 <= gpus_per_trial <= 1 or (gpus_per_trial > 1 and gpus_per_trial % 1 == 0)
        ):
            raise HeadstartError(
                f"{gpus_per_trial} GPUs per trial are not possible: give a fraction or a whole number."
            )
        self._ray = _import()
        self._address, self._jobs, self._gpus, self._threads = address, jobs, gpus_per_trial, threads
        self._ours = False
        self._busy: dict[Any, Trial] = {}

    def threads(self) -> int:
        """Return the number of threads of each trial."""
        return self._threads

    def execute(
        self, experiment: AnyExperiment[Ground], context: Ground, trials: Iterator[Trial], progress: Progress
    ) -> Generator[Finished, None, None]:
        """Run the trials as tasks; see `Executor`. A task waits in Ray's queue only if it does not fit yet."""
        self._busy = {}
        failure: Exception | None = None
        first = next(trials, None)
        if first is None:
            return
        self._connect()
        devices = context.devices if context.device.startswith("cuda") else 0
        gpus = float(devices) if self._gpus is None else self._gpus
        task = self._ray.remote(num_cpus=self._threads, num_gpus=gpus, max_retries=RETRIES)(_work)
        template = Job.of(experiment, context, first, self._threads)
        board = _Board(self._ray)
        room = self._room(gpus)
        left = itertools.chain([first], trials)
        while True:
            while failure is None and len(self._busy) < room and (trial := next(left, None)) is not None:
                self._busy[task.remote(replace(template, trial=trial), board.actor)] = trial
            if not self._busy:
                break
            progress.working([Working.on(t, context, board.done.get(t.key, 0)) for t in self._busy.values()])
            try:
                finished = board.wait(self._busy)
            except self._ray.exceptions.RayError as error:
                raise _lost(next(iter(self._busy.values())), error) from error
            for reference in finished:
                trial = self._busy.pop(reference)
                try:
                    yield self._ray.get(reference).finished(trial)
                except self._ray.exceptions.RayError as error:
                    failure = failure or _lost(trial, error)
                except (HeadstartError, RuntimeError) as error:
                    failure = failure or error
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Cancel running tasks, and end our own Ray; see `Executor`."""
        if not self._ray.is_initialized():
            return
        for reference in self._busy:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=True)
        self._busy = {}
        if self._ours:
            self._ray.shutdown()
            self._ours = False

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        own: dict[str, Any] = {"num_cpus": cores(), "include_dashboard": False}
        options = {"address": LOCAL, **own} if self._address == LOCAL else {"address": self._address}
        try:
            self._ray.init(**options, log_to_driver=False, logging_level="error")
        except Exception as error:  # among others a bare Exception, if a process of its own dies at the start
            remedy = "Start one with 'ray start --head', or give --ray local."
            raise HeadstartError(
                f"Ray at '{self._address}' cannot be reached: {' '.join(str(error).split())}",
                remedy="Run the same command again, or give --jobs N." if self._address == LOCAL else remedy,
            ) from error
        self._ours = True

    def _room(self, gpus: float) -> int:
        """Count the trials that fit at a time.

        Raises:
            HeadstartError: No trial fits.
        """
        there = self._ray.cluster_resources()
        room = int(there.get("CPU", 0) // self._threads)
        if gpus:
            room = min(room, int(there.get("GPU", 0) / gpus + 1e-6))
        if room < 1:
            raise HeadstartError(
                f"Ray has too few resources for a trial of {self._threads} cores and {gpus:g} GPUs: it has "
                f"{there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs."
            )
        return min(room, self._jobs or room)


class _Board:
    """Where workers write how many steps of their trial are done, and the main process reads it.

    It is a Ray actor. Neither side ever waits for it: a worker sends and continues, the main process takes an answer
    when there is one. If it is lost, the bars stop and the trials continue.
    """

    def __init__(self, ray: Any) -> None:
        class Board:
            def __init__(self) -> None:
                self.done: dict[str, int] = {}

            def write(self, key: str, done: int) -> None:
                self.done[key] = done

            def read(self) -> dict[str, int]:
                return self.done

        # A class of a function travels by value, so that its process need not import torch.
        self._ray = ray
        self.actor = ray.remote(num_cpus=0)(Board).remote()
        self.done: dict[str, int] = {}
        self._asked: Any = None
        self._next = 0.0

    def wait(self, busy: Mapping[Any, Trial]) -> list[Any]:
        """Return trials that are finished, after `LOOK` seconds at most."""
        if self._asked is None and time.monotonic() >= self._next:
            self._asked = self.actor.read.remote()
        asked = [] if self._asked is None else [self._asked]
        ready, _ = self._ray.wait([*busy, *asked], num_returns=1, timeout=LOOK)
        if self._asked in ready:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self.done = self._ray.get(self._asked)
            self._asked, self._next = None, time.monotonic() + LOOK
        return [reference for reference in ready if reference in busy]


def _work(job: Job, board: Any) -> Reply:
    def tell(done: int) -> None:
        with contextlib.suppress(Exception):  # whatever is wrong with the board is not the trial's affair
            board.write.remote(job.trial.key, done)

    return work(job, tell)


def _import() -> Any:
    if "ray" not in sys.modules:
        # Ray prints what befalls its processes, pages of it, on the driver's standard output; it reads this once.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    with needs_extra(package="ray", extra="ray", what="--ray"):
        import ray
    return ray


def _lost(trial: Trial, error: Exception) -> HeadstartError:
    return HeadstartError(
        f"Ray could not run '{trial.arm.label}', seed {trial.seed}: {str(error).strip().splitlines()[0]}",
        remedy="Run the same command again: finished trials are kept.",
    )
