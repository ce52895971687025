"""The public place of what runs trials: in this process, in several, or on Ray."""

from headstart.bench.runs.executors import Executor, Finished, InProcess, Interleaved, Processes

__all__ = ["Executor", "Finished", "InProcess", "Interleaved", "Processes"]
