"""Where trials run: in this process one by one or in turns, in several, or on Ray. Their numbers are the same."""

from __future__ import annotations

from headstart.bench.runs.executors.base import Executor, Finished
from headstart.bench.runs.executors.in_process import InProcess
from headstart.bench.runs.executors.interleaved import Interleaved
from headstart.bench.runs.executors.processes import Processes

__all__ = ["Executor", "Finished", "InProcess", "Interleaved", "Processes"]
