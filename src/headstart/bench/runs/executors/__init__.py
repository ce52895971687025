"""Where trials run: in this process, in several, or on Ray. Whichever it is, trials and their numbers are the same."""

from __future__ import annotations

from headstart.bench.runs.executors.base import Executor, Finished
from headstart.bench.runs.executors.in_process import InProcess
from headstart.bench.runs.executors.processes import Processes

__all__ = ["Executor", "Finished", "InProcess", "Processes"]
