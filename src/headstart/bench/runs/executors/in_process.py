"""One trial after the other in this process."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import torch

from headstart.bench.runs.executors.base import Finished, Working
from headstart.bench.runs.executors.worker import Job, run_job

if TYPE_CHECKING:
    from headstart.bench.runs.executors.base import Progress
    from headstart.bench.runs.experiment import AnyExperiment, Ground, Trial


class InProcess:
    """Runs one trial after the other, in this process unless several devices train together."""

    def threads(self) -> int:
        """Return torch's number of threads."""
        return torch.get_num_threads()

    def execute(
        self, experiment: AnyExperiment[Ground], context: Ground, trials: Iterator[Trial], progress: Progress
    ) -> Generator[Finished, None, None]:
        """Run the trials here; see `Executor`."""
        for trial in trials:

            def tell(done: int, trial: Trial = trial) -> None:
                progress.working([Working.on(trial, context, done)])

            tell(0)
            job = Job.of(experiment, context, trial, self.threads())
            yield Finished(trial, run_job(job, context, tell), {})

    def close(self) -> None:
        """Do nothing."""
