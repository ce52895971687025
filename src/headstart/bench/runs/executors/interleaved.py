"""Run several trials in turns in this process, each on its own stream of the device.

A captured step is one launch for Python, so that Python can keep the streams of several trials filled while the device
works on all of them. Everything happens in one thread: the calls to torch come in a fixed order, and each trial has
its own global random states.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from headstart.bench.runs.executors.base import Finished, Working
from headstart.bench.trials.trial import TrialContext
from headstart.bench.trials.turns import Ready, Turns, at_once
from headstart.errors import HeadstartError
from headstart.rng import OwnStates

if TYPE_CHECKING:
    from headstart.bench.runs.executors.base import Progress
    from headstart.bench.runs.experiment import AnyExperiment, Ground, Trial

MOST = 32  # torch hands out so many different streams of a device
STEPS = 32  # of a trial's turn at most: enough to make the change of trials cheap


class Interleaved:
    """Runs several trials at a time in this process.

    Args:
        trials: The number of trials at a time.
        steps: The number of steps of a trial in one turn.

    Raises:
        HeadstartError: If ``trials`` is not from 1 to 32.
    """

    def __init__(self, trials: int, steps: int = STEPS) -> None:
        if not 1 <= trials <= MOST:
            raise HeadstartError(f"The number of streams is {trials}; it must be from 1 to {MOST}.")
        self._trials, self._steps = trials, steps

    def threads(self) -> int:
        """Return torch's number of threads, which all trials share."""
        return torch.get_num_threads()

    def execute(
        self, experiment: AnyExperiment[Ground], context: Ground, trials: Iterator[Trial], progress: Progress
    ) -> Generator[Finished, None, None]:
        """Run the trials in turns; see `Executor`."""
        if not isinstance(context, TrialContext) or context.devices > 1:
            what = "with one device each" if isinstance(context, TrialContext) else "that headstart trains itself"
            raise HeadstartError(f"Streams are for trials {what}.", remedy="Leave out --streams, or use --jobs.")
        device = torch.device(context.device)
        idle = [_Stream(device) for _ in range(self._trials)]
        busy: list[_Running] = []
        failure: Exception | None = None
        try:
            while True:
                while idle and failure is None and (trial := next(trials, None)) is not None:
                    busy.append(_Running(trial, context, idle.pop()))
                if not busy:
                    break
                progress.working([Working.on(each.trial, context, each.done) for each in busy])
                for running in [each for each in busy if each.ready()] or busy[:1]:
                    try:
                        result = running.turn(self._steps)
                    except Exception as error:
                        failure = failure or _told(running.trial, error)
                    else:
                        if result is None:
                            continue
                        yield Finished(running.trial, result, {})
                    busy.remove(running)
                    idle.append(running.stream)
        finally:
            with contextlib.ExitStack() as all_of_them:  # whatever fails in one
                for running in busy:
                    all_of_them.callback(running.close)
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Do nothing: running trials end with :meth:`execute`."""


class _Running:
    """A running trial.

    Args:
        trial: The trial.
        context: Its context.
        stream: The stream on which it computes.
    """

    def __init__(self, trial: Trial, context: TrialContext, stream: _Stream) -> None:
        self.trial, self.stream, self.done = trial, stream, 0
        self.ready: Ready = at_once
        self._states = OwnStates()
        self._turns: Turns[dict[str, Any]] = context.run_in_turns(trial.arm, trial.seed, self._tell)

    def turn(self, steps: int) -> dict[str, Any] | None:
        """Run some steps, or until Python would wait for the device; return the result at the end."""
        with self._states.turn(), self.stream():
            try:
                for _ in range(steps):
                    self.ready = next(self._turns)
                    if not self.ready():
                        break
            except StopIteration as end:
                result: dict[str, Any] = end.value
                return result
        return None

    def close(self) -> None:
        """End the trial now."""
        with self._states.turn(), self.stream():
            self._turns.close()

    def _tell(self, done: int) -> None:
        self.done = done


class _Stream:
    """A stream of the device to work on; on a CPU nothing."""

    def __init__(self, device: torch.device) -> None:
        self._own = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._own is not None:
            self._own.wait_stream(torch.cuda.current_stream(device))  # the task's data are brought there on that one

    def __call__(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._own is None else torch.cuda.stream(self._own)


def _told(trial: Trial, error: Exception) -> Exception:
    if isinstance(error, HeadstartError):
        return error
    trace = "".join(traceback.format_exception(error))
    return RuntimeError(f"'{trial.arm.label}', seed {trial.seed}, failed:\n{trace}")
