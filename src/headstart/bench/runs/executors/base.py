"""What an executor is."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from headstart.bench.trials.context import Context

if TYPE_CHECKING:
    from headstart.bench.runs.experiment import AnyExperiment, Ground, Trial


class Finished(NamedTuple):
    """A trial that was run.

    Args:
        trial: Which one.
        result: What came of it, ready for JSON.
        provenance: What differs from the driver's provenance where it ran: machine, versions, threads.
    """

    trial: Trial
    result: dict[str, Any]
    provenance: dict[str, Any]


class Working(NamedTuple):
    """A trial at work.

    Args:
        arm: Its label.
        seed: Its seed.
        done: Finished steps, as far as is known.
        steps: All of its steps.
    """

    arm: str
    seed: int
    done: int
    steps: int

    @classmethod
    def on(cls, trial: Trial, context: Context, done: int = 0) -> Working:
        """Say how far a trial is."""
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
            context: What they share, as it was prepared in this process.
            trials: A trial is claimed when it is drawn from here: one is drawn only when it can start.
            progress: Is told which trials are at work and how far. The caller tells it of ends.

        Yields:
            Finished trials, in the order of their ends.

        Raises:
            HeadstartError: If trials cannot be run there. Those at work are finished and yielded first.
        """

    def close(self) -> None:
        """Let go of all workers and stop what they do. If the executor is used again, it starts new ones."""


class Progress(Protocol):
    """What a run tells while it goes on."""

    def begin(self, total: int, kept: int) -> None:
        """Say how many trials there are and how many of them were already done."""

    def working(self, trials: Sequence[Working]) -> None:
        """Say which trials are at work, all of them, and how far."""

    def end(self, result: dict[str, Any]) -> None:
        """Say that the trial ended, and with what."""


class Silent:
    """Progress that says nothing."""

    def begin(self, total: int, kept: int) -> None:
        """Do nothing."""

    def working(self, trials: Sequence[Working]) -> None:
        """Do nothing."""

    def end(self, result: dict[str, Any]) -> None:
        """Do nothing."""
