"""The work of a worker process: prepare once, run trials, answer with plain data."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from headstart.bench.runs.executors.base import Finished
from headstart.bench.store.store import content_key
from headstart.bench.trials import hardware
from headstart.bench.trials.context import Context
from headstart.bench.trials.devices import launch
from headstart.bench.trials.trial import TrialContext
from headstart.errors import HeadstartError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from headstart.bench.runs.experiment import AnyExperiment, Ground, Trial


@dataclass(frozen=True)
class Job:
    """A trial, described so that another process can run it.

    Args:
        experiment: The fully resolved experiment.
        trial: The trial.
        threads: The number of threads.
        folder: The working directory, from which relative paths count.
    """

    experiment: AnyExperiment[Any]
    trial: Trial
    threads: int
    folder: str

    @classmethod
    def of(cls, experiment: AnyExperiment[Ground], context: Ground, trial: Trial, threads: int) -> Job:
        """Describe a trial, so that the worker need not resolve anything."""
        return cls(experiment.resolved(context), trial, threads, os.getcwd())


@dataclass(frozen=True)
class Reply:
    """The answer to a job. Errors are sent as text, since not every exception can be sent between processes.

    Args:
        result: The result of the trial; None if it could not be run.
        provenance: The provenance of the worker.
        error: Why it could not be run.
        trace: The traceback; empty if the error explains itself.
    """

    result: dict[str, Any] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    trace: str = ""

    def finished(self, trial: Trial) -> Finished:
        """Return the finished trial.

        Raises:
            HeadstartError: The worker raised one.
            RuntimeError: The worker raised another error; its text is the worker's traceback.
        """
        if self.result is not None:
            return Finished(trial, self.result, self.provenance)
        if self.trace:
            raise RuntimeError(f"'{trial.arm.label}', seed {trial.seed}, failed in a worker:\n{self.trace}")
        raise HeadstartError(self.error)


_prepared: dict[str, tuple[Context, dict[str, Any]]] = {}


def work(job: Job, on_step: Callable[[int], None] | None = None) -> Reply:
    """Run a job in this process.

    Args:
        job: The job.
        on_step: Called with the number of finished steps; only if the trial runs in this process.
    """
    try:
        with contextlib.suppress(OSError):  # on another machine the folder may not be there, nor be needed
            os.chdir(job.folder)
        torch.set_num_threads(job.threads)
        context, provenance = _prepare(job)
        trial = job.trial
        if content_key(context.determinants(trial.arm, trial.seed)) != trial.key:
            raise HeadstartError(
                f"A worker sees other data or another model than the main process: '{trial.arm.label}', seed "
                f"{trial.seed}, would be a different trial there.",
                remedy="Give all machines the same files and packages, and leave them unchanged while trials run.",
            )
        return Reply(run_job(job, context, on_step), provenance)
    except HeadstartError as error:
        return Reply(error=str(error))
    except Exception as error:
        return Reply(error=str(error), trace=traceback.format_exc())


def run_job(job: Job, context: Context, on_step: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Run a job's trial here, or in one process per device if several devices train together.

    Args:
        job: The job.
        context: The context, as prepared in this process.
        on_step: Called with the number of finished steps; only if the trial runs in this process.
    """
    if context.devices == 1:
        return context.run(job.trial.arm, job.trial.seed, on_step)
    assert isinstance(context, TrialContext)  # a user's command sees to its devices itself
    result: dict[str, Any] = launch(context.training, _on_device, job)
    return result


def _on_device(fabric: Fabric, job: Job) -> dict[str, Any]:
    torch.set_num_threads(max(1, job.threads // fabric.world_size))
    context, _ = _prepare(job)
    return context.run(job.trial.arm, job.trial.seed, fabric=fabric)


def _prepare(job: Job) -> tuple[Context, dict[str, Any]]:
    """Prepare the context once; that of an earlier experiment is dropped."""
    name = repr(job.experiment)
    if name not in _prepared:
        _prepared.clear()
        context = job.experiment.prepare()
        _prepared[name] = context, hardware.provenance(context.device)
    return _prepared[name]
