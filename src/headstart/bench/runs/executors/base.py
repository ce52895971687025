"""What an executor is."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from headstart.bench.trials.context import Context

if TYPE_CHECKING:
    from headstart.bench.runs.experiment import AnyExperiment, Ground, Trial


class Finished(NamedTuple):
    """A finished trial.

    Args:
        trial: The trial.
        result: Its result, ready for JSON.
        provenance: How its machine, versions and threads differ from those of the main process.
    """

    trial: Trial
    result: dict[str, Any]
    provenance: dict[str, Any]


class Working(NamedTuple):
    """A running trial.

    Args:
        arm: Its label.
        seed: Its seed.
        done: Finished steps, as far as they are known.
        steps: All of its steps.
    """

    arm: str
    seed: int
    done: int
    steps: int

    @classmethod
    def on(cls, trial: Trial, context: Context, done: int = 0) -> Working:
        """Describe the progress of a trial."""
        return cls(trial.arm.label, trial.seed, done, context.steps_of(trial.arm))


class Executor(Protocol):
    """Runs trials somewhere."""

    def threads(self) -> int:
        """Return the number of threads that each trial computes with."""

    def execute(
        self, experiment: AnyExperiment[Ground], context: Ground, trials: Iterator[Trial], progress: Progress
    ) -> Generator[Finished, None, None]:
        """Run trials and yield each as it finishes.

        Args:
            experiment: The experiment of the trials.
            context: Their context, as prepared in this process.
            trials: Drawing a trial claims it, so a trial is drawn only when it can start.
            progress: Gets the running trials and their progress. The caller reports finished trials to it.

        Yields:
            Finished trials, in the order of their ends.

        Raises:
            HeadstartError: Trials cannot be run there. Running trials are finished and yielded first.
        """

    def close(self) -> None:
        """Stop all workers. If the executor is used again, it starts new ones."""


class Progress(Protocol):
    """Receives the progress of a run."""

    def begin(self, total: int, kept: int) -> None:
        """Take the number of trials, and how many are already done."""

    def working(self, trials: Sequence[Working]) -> None:
        """Take all running trials with their progress."""

    def end(self, result: dict[str, Any]) -> None:
        """Take a finished trial with its result."""


class Silent:
    """Progress that shows nothing."""

    def begin(self, total: int, kept: int) -> None:
        """Do nothing."""

    def working(self, trials: Sequence[Working]) -> None:
        """Do nothing."""

    def end(self, result: dict[str, Any]) -> None:
        """Do nothing."""
