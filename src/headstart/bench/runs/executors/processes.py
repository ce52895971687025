"""Run trials in several processes of this machine, each one trial at a time."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import torch

from headstart.bench.runs.executors.base import Finished, Working
from headstart.bench.runs.executors.worker import Job, Reply, work
from headstart.bench.trials.devices import leave_with_parent
from headstart.errors import HeadstartError

if TYPE_CHECKING:
    from headstart.bench.runs.executors.base import Progress
    from headstart.bench.runs.experiment import AnyExperiment, Ground, Trial

RETRIES = 2
"""How often a trial is repeated if its worker dies."""
LOOK = 0.5
"""Seconds between checks of the running trials' progress."""
GRACE = 5.0
"""Seconds that a worker has to stop its trial."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Processes:
    """Runs trials in worker processes.

    Each worker is a pool of one, so that the death of a worker does not affect other trials.

    Args:
        jobs: Number of workers.
        threads: The threads of each worker; by default the cores are divided evenly, up to torch's number here.

    Raises:
        HeadstartError: If ``jobs`` is less than 1.
    """

    def __init__(self, jobs: int, threads: int | None = None) -> None:
        if jobs < 1:
            raise HeadstartError(f"The number of jobs is {jobs}; it must be at least 1.")
        self._threads = threads or max(1, min(cores() // jobs, torch.get_num_threads()))
        self._workers = [_Worker() for _ in range(jobs)]

    def threads(self) -> int:
        """Return the number of threads of each worker."""
        return self._threads

    def execute(
        self, experiment: AnyExperiment[Ground], context: Ground, trials: Iterator[Trial], progress: Progress
    ) -> Generator[Finished, None, None]:
        """Run the trials in the workers; see `Executor`."""
        idle = list(reversed(self._workers))
        busy: dict[Future[Reply], tuple[_Worker, Trial]] = {}
        again: list[Trial] = []
        deaths: Counter[str] = Counter()
        failure: Exception | None = None
        while True:
            while idle and failure is None:
                trial = again.pop() if again else next(trials, None)
                if trial is None:
                    break
                worker = idle.pop()
                busy[worker.start(Job.of(experiment, context, trial, self._threads))] = worker, trial
            if not busy:
                break
            progress.working([Working.on(trial, context, worker.done.value) for worker, trial in busy.values()])
            for future in wait(busy, LOOK, FIRST_COMPLETED).done:
                worker, trial = busy.pop(future)
                idle.append(worker)
                try:
                    yield future.result().finished(trial)
                except (BrokenProcessPool, SystemExit):  # killed, or asked to end by someone else
                    worker.stop()
                    deaths[trial.key] += 1
                    if deaths[trial.key] <= RETRIES:
                        again.append(trial)
                    else:
                        failure = failure or _died(trial, deaths[trial.key])
                except (HeadstartError, RuntimeError) as error:
                    failure = failure or error
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Stop all workers; see `Executor`."""
        for worker in self._workers:
            worker.stop()


class _Worker:
    """A process that is started when it is needed and can be stopped at any time.

    The finished steps of its trial are a number in shared memory: writing cannot block, and no death leaves a lock.
    """

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
        self.done = self._context.RawValue(ctypes.c_longlong, 0)
        self._pool: ProcessPoolExecutor | None = None
        self._processes: list[Any] = []

    def start(self, job: Job) -> Future[Reply]:
        self.done.value = 0
        return self.submit(_work, job)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        others = set(multiprocessing.active_children())
        self._pool = self._pool or ProcessPoolExecutor(1, self._context, _enter, (self.done,))
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool as error:  # it died while it had nothing to do
            future: Future[Any] = Future()
            future.set_exception(error)
            return future
        finally:
            self._processes += set(multiprocessing.active_children()) - others

    def stop(self) -> None:
        """Ask the process to stop with all that it started; kill it if it does not stop in time."""
        pool, self._pool = self._pool, None
        processes, self._processes = self._processes, []
        if pool is None:
            return
        for process in processes:
            process.terminate()
        late = threading.Timer(GRACE, lambda: [process.kill() for process in processes])
        late.start()
        pool.shutdown(wait=True, cancel_futures=True)
        late.cancel()


# In a worker: the number that its driver reads, and whether it is to stop.
_done: Any = None
_stopping = False


def _enter(done: Any) -> None:
    """Prepare a worker: it ignores interrupts, which the main process handles, and ends with the main process."""
    global _done
    _done = done
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    leave_with_parent()


def _stop(number: int, frame: object) -> None:
    global _stopping
    _stopping = True
    sys.exit(1)


def _work(job: Job) -> Reply:
    reply = work(job, _tell)
    if _stopping:  # inside a user's function, whose exit is an error of the function
        sys.exit(1)
    return reply


def _tell(done: int) -> None:
    _done.value = done


def _died(trial: Trial, times: int) -> HeadstartError:
    return HeadstartError(
        f"The worker of '{trial.arm.label}', seed {trial.seed}, died {times} times.",
        remedy="Most likely memory ran out: run fewer jobs at a time. Finished trials are kept.",
    )
