"""Ray: the cores and GPUs of this machine, or of a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headstart.bench.executors.base import Finished
from headstart.bench.executors.processes import RETRIES, cores
from headstart.bench.executors.worker import Job, work
from headstart.bench.trial import Ground
from headstart.errors import HeadstartError, MissingExtraError

if TYPE_CHECKING:
    from headstart.bench.experiment import Experiment, Progress, Trial

LOCAL = "local"


class OnRay:
    """Runs trials as Ray tasks. Ray places them, and runs those again whose worker or machine was lost.

    Args:
        address: ``"local"`` for a Ray of our own on this machine, which ends with the run, or a cluster's
            address: ``"auto"``, ``"HOST:PORT"`` or ``"ray://HOST:PORT"``. A Ray that this process is
            connected to already is used as it is.
        jobs: Trials at a time; by default as many as there is room for.
        gpus_per_trial: May be a fraction, so that trials share a GPU; by default 1 if trials train on one.
        threads: Of each trial, and the cores that Ray sets aside for it.

    Raises:
        HeadstartError: If a number makes no sense.
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
            raise HeadstartError(f"{gpus_per_trial} GPUs per trial cannot be had: give a fraction or a whole number.")
        self._ray = _import()
        self._address, self._jobs, self._gpus, self._threads = address, jobs, gpus_per_trial, threads
        self._ours = False
        self._busy: dict[Any, Trial] = {}

    def threads(self) -> int:
        """Return the number of threads of each trial."""
        return self._threads

    def execute(
        self, experiment: Experiment, ground: Ground, trials: Iterator[Trial], progress: Progress
    ) -> Generator[Finished, None, None]:
        """Run the trials as tasks; see `Executor`. A task waits in Ray's queue only if there is no room yet."""
        self._busy = {}
        failure: Exception | None = None
        first = next(trials, None)
        if first is None:
            return
        self._connect()
        gpus = self._gpus if self._gpus is not None else float(ground.training.device.startswith("cuda"))
        task = self._ray.remote(num_cpus=self._threads, num_gpus=gpus, max_retries=RETRIES)(work)
        template = Job.of(experiment, ground, first, self._threads)
        room = self._room(gpus)
        waiting: Trial | None = first
        while True:
            while failure is None and len(self._busy) < room and waiting is not None:
                self._busy[task.remote(replace(template, trial=waiting))] = waiting
                waiting = next(trials, None) if len(self._busy) < room else None
            if not self._busy:
                break
            done, _ = self._ray.wait(list(self._busy), num_returns=1)
            for reference in done:
                trial = self._busy.pop(reference)
                try:
                    yield self._ray.get(reference).finished(trial)
                except self._ray.exceptions.RayError as error:
                    failure = failure or _lost(trial, error)
                except (HeadstartError, RuntimeError) as error:
                    failure = failure or error
            waiting = next(trials, None) if failure is None else None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Cancel what runs, and end a Ray of our own; see `Executor`."""
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
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise HeadstartError(
                f"Ray at '{self._address}' cannot be reached: {' '.join(str(error).split())}",
                remedy="Start one with 'ray start --head', or give --ray local.",
            ) from error
        self._ours = True

    def _room(self, gpus: float) -> int:
        """Count the trials that fit at a time.

        Raises:
            HeadstartError: If there is room for none.
        """
        there = self._ray.cluster_resources()
        room = int(there.get("CPU", 0) // self._threads)
        if gpus:
            room = min(room, int(there.get("GPU", 0) / gpus + 1e-6))
        if room < 1:
            raise HeadstartError(
                f"Ray has no room for a trial of {self._threads} cores and {gpus:g} GPUs: it has "
                f"{there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs."
            )
        return min(room, self._jobs or room)


def _import() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "--ray") from error
    return ray


def _lost(trial: Trial, error: Exception) -> HeadstartError:
    return HeadstartError(
        f"Ray could not run '{trial.arm.label}', seed {trial.seed}: {str(error).strip().splitlines()[0]}",
        remedy="Run the same command again: finished trials are kept.",
    )
